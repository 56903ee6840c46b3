"""Views as HTML that needs neither kernel nor network."""
