"""What several tests use: faults and a server that has them, a browser, Prometheus and Alertmanager, the contract."""
