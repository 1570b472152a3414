"""What a person types is a script here; what it is made of lies in the packages below."""
