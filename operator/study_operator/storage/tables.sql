-- What the operator keeps beside Optuna's tables. Pods' login has no right on any of it; what pods may do is in reporting.sql.
--
-- Run by `study-operator migrate` after Optuna's own tables exist; every statement can be repeated.

CREATE SCHEMA IF NOT EXISTS study_operator;
REVOKE ALL ON SCHEMA study_operator FROM PUBLIC;

CREATE TABLE IF NOT EXISTS study_operator.schema_version (
    version    integer     NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row per Study that the operator serves or has served: who may report to it, and where it came from.
CREATE TABLE IF NOT EXISTS study_operator.access (
    study_id        integer PRIMARY KEY REFERENCES public.studies (study_id) ON DELETE CASCADE,
    key_hash        bytea,                      -- NULL: nobody may report any more
    cluster_id      text    NOT NULL,           -- UID of the cluster's kube-system namespace
    namespace       text    NOT NULL,
    name            text    NOT NULL,
    uid             text    NOT NULL,           -- of the Study object
    deletion_policy text    NOT NULL,
    UNIQUE (cluster_id, uid)
);

ALTER TABLE study_operator.access
    ADD COLUMN IF NOT EXISTS objectives     integer NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS paused_at      timestamptz,                            -- NULL: it is not suspended
    ADD COLUMN IF NOT EXISTS paused_seconds double precision NOT NULL DEFAULT 0,    -- all earlier times together
    ADD COLUMN IF NOT EXISTS holder         bigint NOT NULL DEFAULT 0;  -- which hold it is served by; negative: let go of
CREATE INDEX IF NOT EXISTS access_by_name ON study_operator.access (cluster_id, namespace, name);

-- Numbers of holds. One is drawn after the locks of some studies have been taken, so that of two holds of a study the later one
-- has the higher number, and a process that has lost the lock without knowing it is told from the one that has it.
CREATE SEQUENCE IF NOT EXISTS study_operator.holds;

-- How far the operator has read the log of each pod of a trial that reports by what it prints, and the last value that the pod
-- printed of each objective and constraint, as texts by name.
CREATE TABLE IF NOT EXISTS study_operator.log_positions (
    trial_id   integer REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    pod_uid    text,
    position   text        NOT NULL,            -- model/position.py says what is in it
    vals       jsonb       NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (trial_id, pod_uid)
);

-- Final values as the pods sent them. The operator, the only one that changes a trial's state, tells them to Optuna.
CREATE TABLE IF NOT EXISTS study_operator.results (
    trial_id    integer PRIMARY KEY REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    vals        double precision[] NOT NULL,
    pruned      boolean     NOT NULL,           -- the script itself ended the trial early
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE study_operator.results
    ADD COLUMN IF NOT EXISTS constraint_values jsonb NOT NULL DEFAULT '{}',         -- name to number
    ADD COLUMN IF NOT EXISTS infeasible        text,                                -- why; NULL: it is not
    ADD COLUMN IF NOT EXISTS provisional       boolean NOT NULL DEFAULT false;      -- counts once the Job is Complete

-- What looked like a report and could not be read as one, where reports are read off files or logs. For a file, the count is that
-- of one reading from the start, so that reading again counts nothing twice; for a log, log_positions sees to that.
CREATE TABLE IF NOT EXISTS study_operator.bad_reports (
    trial_id    integer PRIMARY KEY REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    study_id    integer     NOT NULL,
    count       bigint      NOT NULL,
    last        text        NOT NULL,           -- the latest one, and what is wrong with it
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS bad_reports_by_study ON study_operator.bad_reports (study_id);

-- What went wrong, one row each: failed trials, failures of the cluster after which a trial ran again, infeasible trials.
-- Written with the trial's end in one transaction, and apart from Optuna's tables so that counting them costs what there is
-- of them. `source` tells one failure of a trial from another, so that noting it down again changes nothing.
CREATE TABLE IF NOT EXISTS study_operator.incidents (
    incident_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_id      integer     NOT NULL,
    trial_id      integer     NOT NULL REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    source        text        NOT NULL,         -- name of the Job
    kind          text        NOT NULL,         -- Program, Infrastructure, Infeasible or Terminated
    reason        text        NOT NULL,
    message       text        NOT NULL,
    exit_code     integer,
    last_log_line text        NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (trial_id, source)
);
CREATE INDEX IF NOT EXISTS incidents_by_study ON study_operator.incidents (study_id, incident_id);
-- Failures told by version 1 of this schema.
INSERT INTO study_operator.incidents (study_id, trial_id, source, kind, reason, message, exit_code, last_log_line)
SELECT t.study_id, t.trial_id, '', 'Program', f ->> 'reason', coalesce(f ->> 'message', ''), (f ->> 'exit_code')::integer,
       coalesce(f ->> 'last_log_line', '')
FROM public.trials t JOIN public.trial_user_attributes a USING (trial_id), LATERAL (SELECT a.value_json::jsonb AS f) AS told
WHERE a.key = 'study_operator:failure' AND t.state = 'FAIL'
  AND (SELECT max(version) FROM study_operator.schema_version) = 1
ORDER BY t.datetime_complete
ON CONFLICT DO NOTHING;

-- The number of the last message of a trial that changed something and may be followed by another that changes it again.
CREATE TABLE IF NOT EXISTS study_operator.last_messages (
    trial_id integer PRIMARY KEY REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    number   bigint NOT NULL
);

-- How often a call was refused, by SQLSTATE. Sequences, because they alone keep their value when a transaction fails; and they
-- make no two sessions wait for each other. After a crash of the server one may be up to 32 ahead.
CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so001;
CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so002;
CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so003;
CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so004;
CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so005;

REVOKE ALL ON ALL TABLES IN SCHEMA study_operator FROM PUBLIC;
