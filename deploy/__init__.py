"""What `make deploy` and its neighbours do. Standard library only: it runs where nothing is installed yet."""
