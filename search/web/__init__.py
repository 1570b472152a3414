"""optuna-dashboard on our store: started, guarded by a password, shown below a proxy's path.

Of search/ it imports nothing, so that a store is shown without the rest.
"""
