-- The operator's own tables, beside Optuna's. The reporter, the login of trials' pods, has no right on any of them. What pods may
-- do is in reporting.sql.
--
-- `study-operator migrate` runs this file after Optuna's own tables exist. Every statement can be repeated.

CREATE SCHEMA IF NOT EXISTS study_operator;
REVOKE ALL ON SCHEMA study_operator FROM PUBLIC;

CREATE TABLE IF NOT EXISTS study_operator.schema_version (
    version    integer     NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row per Study that the operator serves or has served: who may report to the study, and which Study object it belongs to.
CREATE TABLE IF NOT EXISTS study_operator.access (
    study_id        integer PRIMARY KEY REFERENCES public.studies (study_id) ON DELETE CASCADE,
    key_hash        bytea,                      -- SHA-256; NULL: no pod may report any more
    cluster_id      text    NOT NULL,           -- UID of the cluster's kube-system namespace
    namespace       text    NOT NULL,
    name            text    NOT NULL,
    uid             text    NOT NULL,           -- of the Study object
    deletion_policy text    NOT NULL,
    UNIQUE (cluster_id, uid)
);

ALTER TABLE study_operator.access
    ADD COLUMN IF NOT EXISTS objectives     integer NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS paused_at      timestamptz,                            -- NULL: the study is active
    ADD COLUMN IF NOT EXISTS paused_seconds double precision NOT NULL DEFAULT 0,    -- all earlier pauses together
    ADD COLUMN IF NOT EXISTS holder         bigint NOT NULL DEFAULT 0;  -- epoch of the hold; negative: handed over; 0: never served
CREATE INDEX IF NOT EXISTS access_by_name ON study_operator.access (cluster_id, namespace, name);

-- The epochs of holds, which are fencing tokens. A replica draws one after it has taken the locks of some studies. So of two holds
-- of a study the later one has the higher epoch. By it the database tells a replica that has lost the lock without knowing it from
-- the replica that has the lock now.
CREATE SEQUENCE IF NOT EXISTS study_operator.holds;

-- For trials that report by printing lines: how far the operator has read the log of each pod, and the last value that the pod
-- printed of each objective and constraint.
CREATE TABLE IF NOT EXISTS study_operator.log_positions (
    trial_id   integer REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    pod_uid    text,
    position   text        NOT NULL,            -- its format: model/log_position.py
    vals       jsonb       NOT NULL,            -- name to number as text
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (trial_id, pod_uid)
);

-- Final values as the pods sent them. Only the operator changes a trial's state, so the operator tells the values to Optuna.
CREATE TABLE IF NOT EXISTS study_operator.results (
    trial_id    integer PRIMARY KEY REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    vals        double precision[] NOT NULL,
    pruned      boolean     NOT NULL,           -- the script itself ended the trial early
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE study_operator.results
    ADD COLUMN IF NOT EXISTS constraint_values jsonb NOT NULL DEFAULT '{}',         -- name to number
    ADD COLUMN IF NOT EXISTS infeasible        text,                                -- why; NULL: the parameters are feasible
    ADD COLUMN IF NOT EXISTS provisional       boolean NOT NULL DEFAULT false;      -- valid once the Job is Complete

-- Pruned trials whose programs have been told to stop, so that they end by themselves.
CREATE TABLE IF NOT EXISTS study_operator.stops (
    trial_id integer PRIMARY KEY REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    told_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    goes_on  boolean     NOT NULL DEFAULT false         -- the program has reported again, long after that
);

-- Lines of files and logs that looked like a report and could not be read. Reading again counts nothing twice: for a file the count
-- is that of one reading from the start, and for a log log_positions remembers what has been counted.
CREATE TABLE IF NOT EXISTS study_operator.bad_reports (
    trial_id    integer PRIMARY KEY REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    study_id    integer     NOT NULL,
    count       bigint      NOT NULL,
    last        text        NOT NULL,           -- the latest one, and what is wrong with it
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS bad_reports_by_study ON study_operator.bad_reports (study_id);

-- Incidents, one row each: failed trials, infrastructure failures after which a trial ran again, and infeasible trials.
-- An incident is written in the same transaction as the trial's end. It has a table of its own, so that counting incidents takes
-- time in proportion to the incidents and not to all trials. `source` tells one failure of a trial from another, so that storing a
-- failure again changes nothing.
CREATE TABLE IF NOT EXISTS study_operator.incidents (
    incident_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_id      integer     NOT NULL,
    trial_id      integer     NOT NULL REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    source        text        NOT NULL,         -- name of the attempt's Job
    kind          text        NOT NULL,         -- Program, Infrastructure, Infeasible or Terminated
    reason        text        NOT NULL,
    message       text        NOT NULL,
    exit_code     integer,
    last_log_line text        NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (trial_id, source)
);
-- The end of what the program had logged, for the latest incidents of each study. Only the operator's login and those to which its
-- owner gives the right can read it: a log may hold what its namespace alone may see.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = 'study_operator.incidents'::regclass AND attname = 'log') THEN
        ALTER TABLE study_operator.incidents ADD COLUMN log text;  -- IF NOT EXISTS would wait for every reader each time
    END IF;
END $$;
CREATE INDEX IF NOT EXISTS incidents_by_study ON study_operator.incidents (study_id, incident_id);
-- Failures that version 1 of this schema kept among Optuna's attributes.
INSERT INTO study_operator.incidents (study_id, trial_id, source, kind, reason, message, exit_code, last_log_line)
SELECT t.study_id, t.trial_id, '', 'Program', f ->> 'reason', coalesce(f ->> 'message', ''), (f ->> 'exit_code')::integer,
       coalesce(f ->> 'last_log_line', '')
FROM public.trials t JOIN public.trial_user_attributes a USING (trial_id), LATERAL (SELECT a.value_json::jsonb AS f) AS told
WHERE a.key = 'study_operator:failure' AND t.state = 'FAIL'
  AND (SELECT max(version) FROM study_operator.schema_version) = 1
ORDER BY t.datetime_complete
ON CONFLICT DO NOTHING;

-- The channel by which the operator is notified. Its name is random and in no text that other logins may read, because every login
-- may listen to a channel, and so learn when the trials of others report.
CREATE TABLE IF NOT EXISTS study_operator.installation (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    channel text    NOT NULL
);
INSERT INTO study_operator.installation (channel) VALUES ('study_' || replace(gen_random_uuid()::text, '-', ''))
ON CONFLICT DO NOTHING;

-- The logins of namespaces' pods. A password follows from the installation's seed and the salt; seed_hash tells which seed, and which
-- password of the shared login, that was.
CREATE TABLE IF NOT EXISTS study_operator.logins (
    role       text PRIMARY KEY,
    cluster_id text  NOT NULL,
    namespace  text  NOT NULL,
    salt       text  NOT NULL,
    seed_hash  bytea NOT NULL,
    used_at    timestamptz NOT NULL DEFAULT clock_timestamp(),     -- when an operator last asked for it
    UNIQUE (cluster_id, namespace)
);
-- The login that all pods shared, while some of them still use it: those of trials up to last_trial, which is known some time after
-- the migration.
CREATE TABLE IF NOT EXISTS study_operator.shared_login (
    role          text PRIMARY KEY,
    superseded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_trial    integer
);

-- The number of each trial's last message of a kind that a later message may override (candidate, set_user_attr).
CREATE TABLE IF NOT EXISTS study_operator.last_messages (
    trial_id integer PRIMARY KEY REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    number   bigint NOT NULL
);

-- How often a call was refused, by SQLSTATE. They are sequences because only a sequence keeps its value when a transaction fails,
-- and because no session waits for another one's. After a crash of the server a sequence may be up to 32 ahead.
CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so001;
CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so002;
CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so003;
CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so004;
CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so005;

CREATE SEQUENCE IF NOT EXISTS study_operator.refused_so006;

-- What this installation takes in: one row. `study-operator migrate` sets it to the chart's values.
CREATE TABLE IF NOT EXISTS study_operator.limits (
    reports_per_trial bigint NOT NULL,
    bytes_per_study   bigint NOT NULL
);
ALTER TABLE study_operator.limits ADD COLUMN IF NOT EXISTS bytes_per_namespace bigint NOT NULL DEFAULT 5000000000;
INSERT INTO study_operator.limits (reports_per_trial, bytes_per_study)
SELECT 1000000, 2000000000 WHERE NOT EXISTS (SELECT FROM study_operator.limits);

-- How many intermediate values a trial has reported, since this table exists. Counting the values themselves would take longer with
-- each report. Only the trial's own calls change its row, so that no trial waits for another.
CREATE TABLE IF NOT EXISTS study_operator.trial_usage (
    trial_id integer PRIMARY KEY REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    study_id integer NOT NULL,
    reports  bigint  NOT NULL
) WITH (fillfactor = 70);  -- room beside each row for its next version
CREATE INDEX IF NOT EXISTS trial_usage_by_study ON study_operator.trial_usage (study_id);

-- About how many bytes a study's reports and user attributes take. Trials share the row, so reports are added by the thousand.
CREATE TABLE IF NOT EXISTS study_operator.study_usage (
    study_id integer PRIMARY KEY REFERENCES public.studies (study_id) ON DELETE CASCADE,
    bytes    bigint  NOT NULL
) WITH (fillfactor = 70);

REVOKE ALL ON ALL TABLES IN SCHEMA study_operator FROM PUBLIC;
