"""Memory as the transport: slots of one shared-memory object, for workers, the front and the model server."""
