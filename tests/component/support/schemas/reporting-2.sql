-- What a trial's pod may do in the database, and all of it.
--
-- Pods log in as one role, :"reporter" (study_reporter unless configured otherwise). It owns nothing, reads no table
-- and may execute the six functions at the end of this file. Each acts only on RUNNING trials of the study whose key the
-- connection was opened with: `options=-c study_operator.key=...`. The key is not an argument, because PostgreSQL shows the
-- text of every query to all other connections of the same role (pg_stat_activity), and writes failing ones to its log; a
-- connection's own settings it shows to nobody else. Keys are stored as SHA-256 hashes: they are 256 random bits, so a slow
-- hash adds nothing.
--
-- Run by `study-operator migrate` after Optuna's own tables exist; every statement can be repeated.
-- SQLSTATEs: SO001 wrong key, SO002 trial is not running, SO003 bad argument, SO004 the study has several objectives.

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
    ADD COLUMN IF NOT EXISTS paused_seconds double precision NOT NULL DEFAULT 0;    -- all earlier times together

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

REVOKE ALL ON ALL TABLES IN SCHEMA study_operator FROM PUBLIC;

-- The study and state of a trial, if this connection has its study's key. The row lock makes a report and the operator's decision
-- about the same trial happen one after the other: without it a value could be stored for a trial just pruned.
DO $$ BEGIN  -- schema 1 returned less, which CREATE OR REPLACE cannot change
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid = to_regprocedure('study_operator.authorise(integer)')
                   AND 'objectives' = ANY (p.proargnames)) THEN
        DROP FUNCTION IF EXISTS study_operator.authorise(integer);
    END IF;
END $$;
CREATE OR REPLACE FUNCTION study_operator.authorise(
    trial_id integer, OUT study_id integer, OUT state text, OUT objectives integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT t.study_id, t.state::text, a.objectives INTO authorise.study_id, authorise.state, authorise.objectives
    FROM public.trials t JOIN study_operator.access a ON a.study_id = t.study_id
    WHERE t.trial_id = authorise.trial_id AND a.key_hash = sha256(convert_to(current_setting('study_operator.key', true), 'UTF8'))
    FOR SHARE OF t;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the key is not valid for trial %', trial_id USING ERRCODE = 'SO001',
            HINT = 'STUDY_STORAGE_KEY and STUDY_TRIAL_ID must be those of this trial''s own pod.';
    END IF;
END $$;

-- Stores one intermediate value; the first value of a step stands, as in Optuna.
-- Returns true when the trial has been pruned and should stop.
--
-- Commits without waiting for the disk: NOTIFY lets commits happen only one after the other, and each would wait for a disk
-- that they could share. A crash of the server (not a restart) can lose the reports of its last half second, but none that
-- anything came of: the log is written in order, so whatever is committed after a report, such as the trial's end or what
-- the pruner decided, brings the report to disk with it.
CREATE OR REPLACE FUNCTION study_operator.report(trial_id integer, step bigint, value double precision)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trial record;
BEGIN
    IF step IS NULL OR step < 0 OR step > 2147483647 THEN
        RAISE EXCEPTION 'step must be between 0 and 2147483647, not %', step USING ERRCODE = 'SO003';
    END IF;
    IF value IS NULL THEN
        RAISE EXCEPTION 'value must be a number (NaN and infinities included)' USING ERRCODE = 'SO003';
    END IF;
    trial := study_operator.authorise(trial_id);
    IF trial.objectives > 1 THEN
        RAISE EXCEPTION 'the study has % objectives, and Optuna has no pruning with several: there is nothing that could'
            ' be done with values reported during a trial; report the final ones, by finish()', trial.objectives
            USING ERRCODE = 'SO004';
    ELSIF trial.state = 'PRUNED' THEN
        RETURN true;
    ELSIF trial.state <> 'RUNNING' THEN
        RAISE EXCEPTION 'trial % is not running: it is %', trial_id, trial.state USING ERRCODE = 'SO002';
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);  -- until the end of this transaction
    INSERT INTO public.trial_intermediate_values AS v (trial_id, step, intermediate_value, intermediate_value_type)
    VALUES (
        report.trial_id, report.step,
        CASE WHEN value IN ('NaN', 'Infinity', '-Infinity') THEN NULL ELSE value END,
        CASE value WHEN 'NaN' THEN 'NAN' WHEN 'Infinity' THEN 'INF_POS' WHEN '-Infinity' THEN 'INF_NEG'
                   ELSE 'FINITE' END::public.trialintermediatevaluetype)
    ON CONFLICT DO NOTHING;
    PERFORM pg_notify('study_operator', trial.study_id::text);
    RETURN false;
END $$;

-- The rules of finish() and candidate(). A provisional result gives way to any later one; one that is not stands.
CREATE OR REPLACE FUNCTION study_operator.store_result(
    trial_id integer, vals double precision[], pruned boolean, constraint_values jsonb, infeasible text, provisional boolean)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trial record;
    stored study_operator.results;
    given jsonb := '{}';
BEGIN
    IF pruned IS NULL OR vals IS NULL OR array_ndims(vals) > 1 THEN
        RAISE EXCEPTION 'the final values are one list of numbers, empty when there are none' USING ERRCODE = 'SO003';
    ELSIF array_position(vals, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'every final value must be a number' USING ERRCODE = 'SO003';
    ELSIF infeasible IS NOT NULL AND (pruned OR vals <> '{}') THEN
        RAISE EXCEPTION 'a trial that is infeasible has no final values, and is not pruned' USING ERRCODE = 'SO003';
    ELSIF length(infeasible) NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'why a trial is infeasible is said in 1 to 1000 characters, not %', length(infeasible)
            USING ERRCODE = 'SO003';
    END IF;
    IF constraint_values IS NOT NULL AND constraint_values <> '{}' THEN
        IF jsonb_typeof(constraint_values) <> 'object' THEN
            RAISE EXCEPTION 'constraints are one JSON object, such as {"latency_ms": 43}' USING ERRCODE = 'SO003';
        ELSIF (SELECT count(*) > 20 OR bool_or(jsonb_typeof(e.value) <> 'number' OR length(e.key) NOT BETWEEN 1 AND 63)
               FROM jsonb_each(constraint_values) e) THEN
            RAISE EXCEPTION 'constraints are at most 20 names of 1 to 63 characters, each with a number'
                USING ERRCODE = 'SO003';
        END IF;
        BEGIN  -- JSON has numbers that no double precision holds
            SELECT jsonb_object_agg(e.key, e.value::double precision) INTO given FROM jsonb_each(constraint_values) e;
        EXCEPTION WHEN numeric_value_out_of_range THEN
            RAISE EXCEPTION 'a constraint has a value beyond the range of double precision' USING ERRCODE = 'SO003';
        END;
    END IF;
    trial := study_operator.authorise(trial_id);
    IF cardinality(vals) <> trial.objectives AND NOT ((pruned OR infeasible IS NOT NULL) AND vals = '{}') THEN
        RAISE EXCEPTION 'the study has % objective(s), but % final value(s) were sent', trial.objectives, cardinality(vals)
            USING ERRCODE = 'SO003';
    END IF;
    LOOP
        SELECT r.* INTO stored FROM study_operator.results r WHERE r.trial_id = store_result.trial_id;
        IF FOUND AND (provisional OR NOT stored.provisional)
           AND (stored.vals, stored.pruned, stored.constraint_values, stored.infeasible)
               IS NOT DISTINCT FROM (vals, pruned, given, infeasible) THEN
            RETURN false;
        ELSIF FOUND AND NOT stored.provisional AND provisional THEN
            RETURN false;
        ELSIF FOUND AND NOT stored.provisional THEN
            RAISE EXCEPTION 'trial % has its final values already, and they are others', trial_id USING ERRCODE = 'SO002';
        ELSIF trial.state = 'PRUNED' THEN
            RETURN true;
        ELSIF trial.state <> 'RUNNING' THEN
            RAISE EXCEPTION 'trial % is not running: it is %', trial_id, trial.state USING ERRCODE = 'SO002';
        END IF;
        INSERT INTO study_operator.results AS r (trial_id, vals, pruned, constraint_values, infeasible, provisional)
        VALUES (store_result.trial_id, store_result.vals, store_result.pruned, given, store_result.infeasible,
                store_result.provisional)
        ON CONFLICT ON CONSTRAINT results_pkey DO UPDATE
        SET vals = excluded.vals, pruned = excluded.pruned, constraint_values = excluded.constraint_values,
            infeasible = excluded.infeasible, provisional = excluded.provisional, reported_at = clock_timestamp()
        WHERE r.provisional;
        EXIT WHEN FOUND;  -- else another call has stored a result since it was looked for: look again
    END LOOP;
    PERFORM pg_notify('study_operator', trial.study_id::text);
    RETURN false;
END $$;

DROP FUNCTION IF EXISTS study_operator.finish(integer, double precision[], boolean);  -- of schema 1

-- Stores the final values, one per objective, and the values that the study's constraints limit, by name. Or, without values,
-- that the script has pruned the trial itself, or why its parameters are infeasible. The same may be sent again: an answer can
-- get lost. Returns true when the operator had pruned the trial before; the values are then not needed.
CREATE OR REPLACE FUNCTION study_operator.finish(
    trial_id integer, vals double precision[], pruned boolean DEFAULT false,
    constraint_values jsonb DEFAULT NULL, infeasible text DEFAULT NULL)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN study_operator.store_result(trial_id, vals, pruned, constraint_values, infeasible, false);
END $$;

-- Final values as somebody beside the program has read them, who cannot know how the program ends: they count once the trial's
-- Job is Complete, and as long as the program itself does not call finish(). May be sent again with others; without values it
-- takes back what was sent. Returns true when the operator had pruned the trial before.
CREATE OR REPLACE FUNCTION study_operator.candidate(
    trial_id integer, vals double precision[], constraint_values jsonb DEFAULT NULL)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trial record;
BEGIN
    IF vals <> '{}' OR vals IS NULL THEN
        RETURN study_operator.store_result(trial_id, vals, false, constraint_values, NULL, true);
    END IF;
    trial := study_operator.authorise(trial_id);
    IF trial.state = 'RUNNING' THEN
        DELETE FROM study_operator.results r WHERE r.trial_id = candidate.trial_id AND r.provisional;
    END IF;
    RETURN trial.state = 'PRUNED';
END $$;

-- Counts what could not be read as a report, with the latest one and what is wrong with it: one more, or `total` of them
-- since the reading began. An ended trial's are not counted any more.
CREATE OR REPLACE FUNCTION study_operator.bad_report(trial_id integer, message text, total bigint DEFAULT NULL)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trial record;
BEGIN
    IF message IS NULL OR total < 1 THEN
        RAISE EXCEPTION 'a bad report needs a message and, if it has one, a total of at least 1' USING ERRCODE = 'SO003';
    END IF;
    trial := study_operator.authorise(trial_id);
    IF trial.state <> 'RUNNING' THEN
        RETURN;
    END IF;
    INSERT INTO study_operator.bad_reports AS b (trial_id, study_id, count, last)
    VALUES (bad_report.trial_id, trial.study_id, coalesce(total, 1), left(message, 256))
    ON CONFLICT ON CONSTRAINT bad_reports_pkey DO UPDATE
    SET count = CASE WHEN total IS NULL THEN least(b.count, 9223372036854775806) + 1 ELSE greatest(b.count, total) END,
        last = excluded.last, reported_at = clock_timestamp();
    PERFORM pg_notify('study_operator', trial.study_id::text);
END $$;

-- A user attribute of the trial, as Optuna's trial.set_user_attr. Names of the operator's own are refused.
CREATE OR REPLACE FUNCTION study_operator.set_user_attr(trial_id integer, name text, val jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trial record;
BEGIN
    IF name IS NULL OR name = '' OR length(name) > 512 OR name LIKE 'study_operator:%' THEN
        RAISE EXCEPTION 'an attribute''s name has 1 to 512 characters and does not begin with study_operator:'
            USING ERRCODE = 'SO003';
    END IF;
    IF val IS NULL OR octet_length(val::text) > 65536 THEN
        RAISE EXCEPTION 'attribute % must be JSON of at most 64 KiB', name USING ERRCODE = 'SO003';
    END IF;
    trial := study_operator.authorise(trial_id);
    IF trial.state <> 'RUNNING' THEN
        RAISE EXCEPTION 'trial % is not running: it is %', trial_id, trial.state USING ERRCODE = 'SO002';
    END IF;
    IF (SELECT count(*) FROM public.trial_user_attributes a
        WHERE a.trial_id = set_user_attr.trial_id AND a.key <> name) >= 100 THEN
        RAISE EXCEPTION 'trial % has 100 attributes already', trial_id USING ERRCODE = 'SO003';
    END IF;
    INSERT INTO public.trial_user_attributes AS a (trial_id, key, value_json)
    VALUES (set_user_attr.trial_id, name, val::text)
    ON CONFLICT ON CONSTRAINT trial_user_attributes_trial_id_key_key DO UPDATE SET value_json = excluded.value_json;
END $$;

-- True when the trial has been pruned and should stop.
CREATE OR REPLACE FUNCTION study_operator.should_stop(trial_id integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (study_operator.authorise(trial_id)).state = 'PRUNED';
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA study_operator FROM PUBLIC;
GRANT USAGE ON SCHEMA study_operator TO :"reporter";
GRANT EXECUTE ON FUNCTION
    study_operator.report(integer, bigint, double precision),
    study_operator.finish(integer, double precision[], boolean, jsonb, text),
    study_operator.candidate(integer, double precision[], jsonb),
    study_operator.bad_report(integer, text, bigint),
    study_operator.set_user_attr(integer, text, jsonb),
    study_operator.should_stop(integer)
TO :"reporter";
