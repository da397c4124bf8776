"""What several tests use: a server that breaks HTTP, a browser, Prometheus and Alertmanager, and the contract."""
