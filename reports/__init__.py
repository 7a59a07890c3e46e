"""What a run's results look like to a person: tables, plots, pages."""
