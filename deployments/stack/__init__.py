"""The local standing stack: Prefect's server, MLflow's server, a worker, the deployments; started and kept up."""
