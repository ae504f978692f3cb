"""What every floor may use and nothing here knows of networks or formats."""
