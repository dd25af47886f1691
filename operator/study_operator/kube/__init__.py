"""The API server: calls, and answers that go on for hours.

JSON in and out, each failure an `ApiError`, every write refused once this replica has lost the study (`fence`). This
package knows the kinds of objects and nothing of trials: what an object says is read in `model`, and what is sent is
built in `manifests`.
"""
