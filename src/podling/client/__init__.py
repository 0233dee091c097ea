"""How a component talks to an API server: REST client, watch, informer, work queue, events."""
