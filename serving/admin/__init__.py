"""Routes for operators, which need `service.admin_key`."""
