"""The images, compose and Kubernetes, for real: Docker, a registry, podman. Run by `scripts/test containers`."""
