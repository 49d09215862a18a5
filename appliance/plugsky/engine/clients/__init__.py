"""The other end of the socket: requests that outlive the engine they were sent to."""
