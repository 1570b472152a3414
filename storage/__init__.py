"""URL -> engine -> Optuna storage with claims and leases. SQLAlchemy lives here."""
