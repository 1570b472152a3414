"""optuna-dashboard on our store: started, guarded, below a proxy's path."""
