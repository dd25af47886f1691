"""The trials API: what people read of trials, served behind the API server's aggregation layer, by `serve-api`.

`service` is the process, `listener` its port, and `server` the paths: whom a request is from (`front_proxy`), and what
never changes (`discovery`, `openapi`). `access` asks the cluster whether a user may do something. With
`serving_certificate` and `trust` the API server knows this replica.

`serving` answers what is asked of the `resources`. `options` and `selectors` read a request, `accepting` its Accept
header; `selection` says which trials are meant, `names` what a name may stand for. `listing` lists them, with tokens of
`continuing`; `watching` tells what happens to them, from the `feed` of changes that become `events`. `trial_objects`
makes the objects, `trial_sets` whole studies, `tables` rows for kubectl, and `shapes` the form that was asked for, with
`numbers` for JSON. `reading` asks the database, `replies` sends, and `refusals` are what is said instead.

`acts` notes what users wish to be done, and `bodies` reads what they send; the operator does it. This package changes
no trial. It knows nothing of the controllers, holds none of the operator's passwords, and asks the database as a login
that can read, and note wishes.
"""
