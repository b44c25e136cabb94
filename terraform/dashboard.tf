locals {
  run     = "run.googleapis.com"
  service = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=starts_with(\"gemtune-\")"
  job     = "resource.type=\"cloud_run_job\" AND resource.labels.job_name=starts_with(\"gemtune-\")"

  # Charts. labels: a chart has one line for each of their values.
  charts = [
    {
      title  = "Finished steps, by job and result"
      filter = "metric.type=\"${local.run}/job/completed_execution_count\" AND ${local.job}"
      labels = ["resource.label.job_name", "metric.label.result"], aligner = "ALIGN_DELTA"
    },
    {
      title  = "Running steps"
      filter = "metric.type=\"${local.run}/job/running_executions\" AND ${local.job}"
      labels = ["resource.label.job_name"], aligner = "ALIGN_MAX"
    },
    {
      title  = "Billable seconds, by job"
      filter = "metric.type=\"${local.run}/container/billable_instance_time\" AND ${local.job}"
      labels = ["resource.label.job_name"], aligner = "ALIGN_DELTA"
    },
    {
      title  = "Memory of the steps, including files"
      filter = "metric.type=\"${local.run}/container/memory/utilizations\" AND ${local.job}"
      labels = ["resource.label.job_name"], aligner = "ALIGN_PERCENTILE_99"
    },
    {
      title  = "Failed jobs"
      filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.gemtune["failed_jobs"].name}\" AND resource.type=\"cloud_run_revision\""
      labels = [], aligner = "ALIGN_DELTA"
    },
    {
      title  = "Relaunched jobs"
      filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.gemtune["relaunched_jobs"].name}\" AND resource.type=\"cloud_run_revision\""
      labels = [], aligner = "ALIGN_DELTA"
    },
    {
      title  = "Undelivered messages, by subscription"
      filter = "metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND resource.type=\"pubsub_subscription\""
      labels = ["resource.label.subscription_id"], aligner = "ALIGN_MAX"
    },
    {
      title  = "Age of the oldest undelivered message"
      filter = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND resource.type=\"pubsub_subscription\""
      labels = ["resource.label.subscription_id"], aligner = "ALIGN_MAX"
    },
    {
      title  = "Calls of the functions, by status"
      filter = "metric.type=\"${local.run}/request_count\" AND ${local.service}"
      labels = ["resource.label.service_name", "metric.label.response_code_class"], aligner = "ALIGN_DELTA"
    },
    {
      title  = "Latency of the functions (ms, 95th percentile)"
      filter = "metric.type=\"${local.run}/request_latencies\" AND ${local.service}"
      labels = ["resource.label.service_name"], aligner = "ALIGN_PERCENTILE_95"
    },
    {
      title  = "Finished executions of the workflow, by result"
      filter = "metric.type=\"workflows.googleapis.com/finished_execution_count\" AND resource.type=\"workflows.googleapis.com/Workflow\" AND resource.labels.workflow_id=\"${google_workflows_workflow.fine_tune.name}\""
      labels = ["metric.label.status"], aligner = "ALIGN_DELTA"
    },
  ]
}

resource "google_monitoring_dashboard" "gemtune" {
  dashboard_json = jsonencode({
    displayName = "gemtune"
    mosaicLayout = {
      columns = 12
      tiles = [
        for index, chart in local.charts : {
          xPos = (index % 2) * 6, yPos = floor(index / 2) * 4, width = 6, height = 4
          widget = {
            title = chart.title
            xyChart = {
              dataSets = [{
                plotType = "LINE"
                timeSeriesQuery = {
                  timeSeriesFilter = {
                    filter = chart.filter
                    aggregation = {
                      alignmentPeriod    = "300s"
                      perSeriesAligner   = chart.aligner
                      crossSeriesReducer = strcontains(chart.aligner, "PERCENTILE") || chart.aligner == "ALIGN_MAX" ? "REDUCE_MAX" : "REDUCE_SUM"
                      groupByFields      = chart.labels
                    }
                  }
                }
              }]
            }
          }
        }
      ]
    }
  })
  depends_on = [google_project_service.enabled]
}
