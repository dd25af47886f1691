-- What a trial's pod may do in the database, and all of it.
--
-- Pods log in as one role, :"reporter" (study_reporter unless configured otherwise). It owns nothing, reads no table
-- and may execute the four functions at the end of this file. Each acts only on RUNNING trials of the study whose key the
-- connection was opened with: `options=-c study_operator.key=...`. The key is not an argument, because PostgreSQL shows the
-- text of every query to all other connections of the same role (pg_stat_activity), and writes failing ones to its log; a
-- connection's own settings it shows to nobody else. Keys are stored as SHA-256 hashes: they are 256 random bits, so a slow
-- hash adds nothing.
--
-- Run by `study-operator migrate` after Optuna's own tables exist; every statement can be repeated.
-- SQLSTATEs: SO001 wrong key, SO002 trial is not running, SO003 bad argument.

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

-- Final values as the pods sent them. The operator, the only one that changes a trial's state, tells them to Optuna.
CREATE TABLE IF NOT EXISTS study_operator.results (
    trial_id    integer PRIMARY KEY REFERENCES public.trials (trial_id) ON DELETE CASCADE,
    vals        double precision[] NOT NULL,
    pruned      boolean     NOT NULL,           -- the script itself ended the trial early
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

REVOKE ALL ON ALL TABLES IN SCHEMA study_operator FROM PUBLIC;

-- The study and state of a trial, if this connection has its study's key. The row lock makes a report and the operator's decision
-- about the same trial happen one after the other: without it a value could be stored for a trial just pruned.
CREATE OR REPLACE FUNCTION study_operator.authorise(trial_id integer, OUT study_id integer, OUT state text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT t.study_id, t.state::text INTO authorise.study_id, authorise.state
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
    IF trial.state = 'PRUNED' THEN
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

-- Stores the final values, one per objective. The same values may be sent again: an answer can get lost.
-- Returns true when the operator had pruned the trial before; the values are then not needed.
CREATE OR REPLACE FUNCTION study_operator.finish(
    trial_id integer, vals double precision[], pruned boolean DEFAULT false)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trial record;
    stored record;
    objectives integer;
BEGIN
    IF pruned IS NULL OR vals IS NULL OR array_position(vals, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'every final value must be a number' USING ERRCODE = 'SO003';
    END IF;
    trial := study_operator.authorise(trial_id);
    SELECT count(*) INTO objectives FROM public.study_directions d WHERE d.study_id = trial.study_id;
    IF cardinality(vals) <> objectives AND NOT (pruned AND vals = '{}') THEN
        RAISE EXCEPTION 'the study has % objective(s), but % final value(s) were sent', objectives, cardinality(vals)
            USING ERRCODE = 'SO003';
    END IF;
    SELECT r.vals, r.pruned INTO stored FROM study_operator.results r WHERE r.trial_id = finish.trial_id;
    IF FOUND AND stored.vals = vals AND stored.pruned = pruned THEN
        RETURN false;
    ELSIF trial.state = 'PRUNED' AND NOT FOUND THEN
        RETURN true;
    ELSIF FOUND THEN
        RAISE EXCEPTION 'trial % has its final values already, and they are others', trial_id USING ERRCODE = 'SO002';
    ELSIF trial.state <> 'RUNNING' THEN
        RAISE EXCEPTION 'trial % is not running: it is %', trial_id, trial.state USING ERRCODE = 'SO002';
    END IF;
    INSERT INTO study_operator.results (trial_id, vals, pruned) VALUES (finish.trial_id, finish.vals, finish.pruned);
    PERFORM pg_notify('study_operator', trial.study_id::text);
    RETURN false;
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
    study_operator.finish(integer, double precision[], boolean),
    study_operator.set_user_attr(integer, text, jsonb),
    study_operator.should_stop(integer)
TO :"reporter";
