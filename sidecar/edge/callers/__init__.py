"""Who calls: certificates and tokens to a tenant, and what a tenant may do."""
