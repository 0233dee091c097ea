"""Role-based access control: rules, who is bound to which, what every cluster starts with."""
