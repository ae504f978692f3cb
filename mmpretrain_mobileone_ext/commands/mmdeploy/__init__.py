"""mmdeploy on the current stack: deploy, verify, compare with our exporter.

mmdeploy is optional and imported only when something is deployed.
"""
