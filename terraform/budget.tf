# The budget only warns. To stop jobs, list them with GET /jobs?status=training, and cancel them.
resource "google_billing_budget" "gemtune" {
  count = var.budget == null ? 0 : 1

  billing_account = var.budget.billing_account
  display_name    = "gemtune in ${var.project_id}"

  budget_filter {
    projects = ["projects/${data.google_project.this.number}"]
  }
  amount {
    specified_amount {
      currency_code = var.budget.currency
      units         = tostring(var.budget.amount)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }
  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }

  # The billing account's administrators are always notified; a budget can have five more channels.
  dynamic "all_updates_rule" {
    for_each = length(var.alert_emails) == 0 ? [] : [1]
    content {
      monitoring_notification_channels = slice([for channel in google_monitoring_notification_channel.email : channel.id], 0, min(5, length(var.alert_emails)))
    }
  }

  depends_on = [google_project_service.enabled]
}
