"""Pictures of the report page."""
