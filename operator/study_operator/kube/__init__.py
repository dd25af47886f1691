"""The API server.

`api_server` sends requests: JSON in and out, each failure an `ApiError`, every write refused once this replica has lost
the study (`fence`). `client` has the calls that the operator makes, `aggregation` those of a server behind the
aggregation layer. `streams` are answers that go on for hours: watches and logs. `decoding` reads just the fields that
the operator needs from large answers. `metadata` reads which Studies there are, whatever they say, and
`metadata_response` shows kopf no more than that.

This package knows kinds of objects and nothing of trials: what an object says is read in `model`, and what is sent is
built in `manifests`.
"""
