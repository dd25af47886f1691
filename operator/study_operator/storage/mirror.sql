-- How the operator writes to a study's trials, and how it learns what other programs write to them.
--
-- `study-operator migrate` runs this file after reporting.sql. Every statement can be repeated. Only the operator's login, which owns
-- everything here, has rights on it.

-- What other programs, such as a notebook, have written to served studies and the operator has not read yet: one row per trial and
-- transaction. Trial 0 stands for the study's own attributes. The operator deletes the rows that it reads.
-- A counter or the highest id seen would miss changes, because transactions become visible in another order than they began.
-- There are no foreign keys, because checking them takes locks: a notebook would wait while another one numbers its trial.
CREATE TABLE IF NOT EXISTS study_operator.changes (
    study_id integer NOT NULL,
    xact     xid8    NOT NULL DEFAULT pg_current_xact_id(),
    trial_id integer NOT NULL,
    PRIMARY KEY (study_id, xact, trial_id)
);
REVOKE ALL ON study_operator.changes FROM PUBLIC;

-- Stores that one of Optuna's rows has changed, and wakes the operator when the change is committed. The function runs with its
-- owner's rights, so that a notebook's login needs no rights on the operator's tables.
CREATE OR REPLACE FUNCTION study_operator.note_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed record := NEW;
    study integer;
    trial integer := 0;
BEGIN
    IF TG_ARGV[0] = 'study' THEN
        study := changed.study_id;
    ELSE
        trial := changed.trial_id;
        SELECT t.study_id INTO study FROM public.trials t WHERE t.trial_id = trial;
    END IF;
    IF EXISTS (SELECT FROM study_operator.access a WHERE a.study_id = study AND a.key_hash IS NOT NULL) THEN
        INSERT INTO study_operator.changes (study_id, trial_id) VALUES (study, trial) ON CONFLICT DO NOTHING;
        IF FOUND THEN
            PERFORM pg_notify(i.channel, study::text) FROM study_operator.installation i;
        END IF;
        IF TG_TABLE_NAME = 'trials' AND TG_OP = 'UPDATE' THEN
            IF NEW.state = 'FAIL' AND OLD.state = 'RUNNING' THEN  -- a trial of the operator's fails for a reason
                INSERT INTO study_operator.incidents (study_id, trial_id, source, kind, reason, message, last_log_line)
                SELECT study, trial, a.value_json::jsonb #>> '{}', 'Program', 'ToldElsewhere',
                       'another program, such as a notebook, has told that the trial has failed', ''
                FROM public.trial_system_attributes a WHERE a.trial_id = trial AND a.key = 'study_operator:job'
                ON CONFLICT DO NOTHING;
            END IF;
        END IF;
    END IF;
    RETURN NULL;
END $$;

-- Four of Optuna's tables need no trigger. Values of objectives are stored together with a change of the trial's state. Reports come
-- from pods, up to a thousand a second: the operator reads those of its own trials by their ids, and those of a notebook's trials
-- when the trials end. User attributes it does not read; version 0.2.0 had triggers on them.
DO $$
DECLARE
    watched record;
BEGIN
    FOR watched IN SELECT t.tgrelid::regclass AS named FROM pg_catalog.pg_trigger t WHERE t.tgname = 'study_operator_change'
                   AND t.tgrelid IN ('public.trial_user_attributes'::regclass, 'public.study_user_attributes'::regclass)
    LOOP
        EXECUTE format('DROP TRIGGER study_operator_change ON %s', watched.named);
    END LOOP;
    FOR watched IN VALUES ('trials', 'trial'), ('trial_params', 'trial'), ('trial_system_attributes', 'trial'),
                     ('study_system_attributes', 'study')
    LOOP  -- CREATE OR REPLACE would wait for every writer each time
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = ('public.' || watched.column1)::regclass
                       AND t.tgname = 'study_operator_change') THEN
            EXECUTE format(
                'CREATE TRIGGER study_operator_change AFTER INSERT OR UPDATE ON public.%I FOR EACH ROW'
                ' WHEN (current_setting(''study_operator.own'', true) IS DISTINCT FROM ''on'')'
                ' EXECUTE FUNCTION study_operator.note_change(%L)', watched.column1, watched.column2);
        END IF;
    END LOOP;
END $$;

-- The operator reads the reports of a trial in the order in which they came, from the last one on that it knows. Without this index
-- PostgreSQL would go through all reports of the trial each time.
DO $$
BEGIN
    IF to_regclass('public.study_operator_reports') IS NULL THEN  -- IF NOT EXISTS would wait for every writer each time
        CREATE INDEX study_operator_reports ON public.trial_intermediate_values (trial_id, trial_intermediate_value_id);
    END IF;
END $$;

-- Refuses the transaction unless `holder` is the epoch of the newest hold of the study (SO010), or if the study has no rows any more
-- (SO011). The check locks the study's access row, so a takeover has to wait until the transaction ends.
CREATE OR REPLACE FUNCTION study_operator.admit(study_id integer, holder bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM study_operator.access a WHERE a.study_id = admit.study_id AND a.holder = admit.holder FOR SHARE;
    IF NOT FOUND THEN
        IF NOT EXISTS (SELECT FROM study_operator.access a WHERE a.study_id = admit.study_id) THEN
            RAISE EXCEPTION 'the rows of study % have been deleted', study_id USING ERRCODE = 'SO011';
        END IF;
        RAISE EXCEPTION 'study % is held by another replica', study_id USING ERRCODE = 'SO010';
    END IF;
END $$;

-- Stores a batch of changes, whole or not at all. model/batch.py says what a change is, storage/batch_writer.py what the JSON has.
-- Everything is checked before anything is written. `outcome` is 'stored', 'full' (no more trials may be started) or 'stale' (the
-- rows are not as the caller knows them; `detail` says how). `at` is the time that was stored, in UTC; `ids` are the trial_ids of the
-- new trials, in their order.
CREATE OR REPLACE FUNCTION study_operator.store(
    study_id integer, changes jsonb, OUT outcome text, OUT detail text, OUT at timestamp, OUT ids integer[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    change jsonb;
    known text;
    trial integer;
    existing bigint;
    started bigint;
BEGIN
    PERFORM set_config('study_operator.own', 'on', true);  -- until the end of this transaction
    at := timezone('utc', clock_timestamp());  -- Optuna keeps naive UTC
    ids := '{}';
    outcome := 'stale';
    IF changes ? 'number' OR changes ? 'most' THEN
        -- Optuna takes the same lock to number trials.
        PERFORM FROM public.studies s WHERE s.study_id = store.study_id FOR UPDATE;
        IF NOT FOUND THEN
            detail := 'the study is not in the database any more';
            RETURN;
        END IF;
        SELECT count(*), count(*) FILTER (WHERE t.state <> 'WAITING') INTO existing, started
        FROM public.trials t WHERE t.study_id = store.study_id;
        IF started + (changes ->> 'starts')::bigint > (changes ->> 'most')::bigint THEN
            outcome := 'full';
            RETURN;
        ELSIF existing <> (changes ->> 'number')::bigint THEN
            detail := format('the next trial''s number is %s, not %s', existing, changes ->> 'number');
            RETURN;
        END IF;
    END IF;
    FOR change IN SELECT jsonb_array_elements(changes -> 'trials') LOOP
        CONTINUE WHEN change ->> 'id' IS NULL;
        trial := (change ->> 'id')::integer;
        IF change ?| ARRAY['state', 'failure', 'forget_result'] THEN  -- a pod's report waits until its trial's end is decided
            SELECT t.state::text INTO known FROM public.trials t
            WHERE t.trial_id = trial AND t.study_id = store.study_id FOR UPDATE;
        ELSE
            SELECT t.state::text INTO known FROM public.trials t
            WHERE t.trial_id = trial AND t.study_id = store.study_id;
        END IF;
        IF known IS NULL OR NOT change -> 'was' ? known THEN
            detail := format('trial %s is %s', change ->> 'number', coalesce(known, 'not there any more'));
            RETURN;
        ELSIF change ? 'unless_result' AND EXISTS (
            SELECT FROM study_operator.results r WHERE r.trial_id = trial AND NOT r.provisional)
        THEN
            detail := format('a result of trial %s has arrived', change ->> 'number');
            RETURN;
        END IF;
    END LOOP;
    FOR change IN SELECT jsonb_array_elements(changes -> 'trials') LOOP
        IF change ->> 'id' IS NULL THEN
            INSERT INTO public.trials (number, study_id, state, datetime_start, datetime_complete)
            VALUES ((change ->> 'number')::integer, store.study_id, (change ->> 'state')::public.trialstate,
                    CASE WHEN change ? 'start' THEN (change ->> 'start')::timestamp ELSE at END,
                    (change ->> 'complete')::timestamp)
            RETURNING trial_id INTO trial;
            ids := ids || trial;
        ELSE
            trial := (change ->> 'id')::integer;
        END IF;
        IF change ? 'failure' THEN  -- before the attribute that names the Job is another one's
            INSERT INTO study_operator.incidents
                (study_id, trial_id, source, kind, reason, message, exit_code, last_log_line, log)
            SELECT store.study_id, trial,
                   coalesce((SELECT a.value_json::jsonb #>> '{}' FROM public.trial_system_attributes a
                             WHERE a.trial_id = trial AND a.key = 'study_operator:job'), ''),
                   f ->> 'kind', f ->> 'reason', f ->> 'message', (f ->> 'exit_code')::integer, f ->> 'last_log_line',
                   nullif(f ->> 'log', '')
            FROM (SELECT change -> 'failure') AS failed (f)
            ON CONFLICT DO NOTHING;
            UPDATE study_operator.incidents i SET log = NULL WHERE i.study_id = store.study_id AND i.log IS NOT NULL
            AND i.incident_id <= (SELECT k.incident_id FROM study_operator.incidents k
                                  WHERE k.study_id = store.study_id AND k.log IS NOT NULL
                                  ORDER BY k.incident_id DESC OFFSET 20 LIMIT 1);  -- the 20 latest are kept
        END IF;
        INSERT INTO public.trial_params (trial_id, param_name, param_value, distribution_json)
        SELECT trial, p.value ->> 0, (p.value ->> 1)::double precision, p.value ->> 2
        FROM jsonb_array_elements(change -> 'params') WITH ORDINALITY p ORDER BY p.ordinality
        ON CONFLICT (trial_id, param_name) DO UPDATE
        SET param_value = excluded.param_value, distribution_json = excluded.distribution_json;
        INSERT INTO public.trial_values (trial_id, objective, value, value_type)
        SELECT trial, p.ordinality - 1, (p.value ->> 0)::double precision, (p.value ->> 1)::public.trialvaluetype
        FROM jsonb_array_elements(change -> 'values') WITH ORDINALITY p
        ON CONFLICT (trial_id, objective) DO UPDATE SET value = excluded.value, value_type = excluded.value_type;
        INSERT INTO public.trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
        SELECT trial, (p.value ->> 0)::integer, (p.value ->> 1)::double precision,
               (p.value ->> 2)::public.trialintermediatevaluetype
        FROM jsonb_array_elements(change -> 'reports') WITH ORDINALITY p ORDER BY p.ordinality
        ON CONFLICT (trial_id, step) DO UPDATE
        SET intermediate_value = excluded.intermediate_value, intermediate_value_type = excluded.intermediate_value_type;
        INSERT INTO public.trial_user_attributes (trial_id, key, value_json)
        SELECT trial, p.value ->> 0, p.value ->> 1 FROM jsonb_array_elements(change -> 'user') p
        ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json;
        INSERT INTO public.trial_system_attributes (trial_id, key, value_json)
        SELECT trial, p.value ->> 0, p.value ->> 1 FROM jsonb_array_elements(change -> 'system') p
        ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json;
        IF change ? 'forget_result' THEN
            DELETE FROM study_operator.results r WHERE r.trial_id = trial;
        END IF;
        IF change ? 'state' AND change ->> 'id' IS NOT NULL THEN
            UPDATE public.trials t
            SET state = (change ->> 'state')::public.trialstate,
                datetime_start = CASE change ->> 'state' WHEN 'RUNNING' THEN at ELSE t.datetime_start END,
                datetime_complete = CASE WHEN change ->> 'state' IN ('COMPLETE', 'PRUNED', 'FAIL') THEN at
                                         ELSE t.datetime_complete END
            WHERE t.trial_id = trial;
        END IF;
    END LOOP;
    INSERT INTO public.study_user_attributes (study_id, key, value_json)
    SELECT store.study_id, p.value ->> 0, p.value ->> 1 FROM jsonb_array_elements(changes -> 'user') p
    ON CONFLICT (study_id, key) DO UPDATE SET value_json = excluded.value_json;
    INSERT INTO public.study_system_attributes (study_id, key, value_json)
    SELECT store.study_id, p.value ->> 0, p.value ->> 1 FROM jsonb_array_elements(changes -> 'system') p
    ON CONFLICT (study_id, key) DO UPDATE SET value_json = excluded.value_json;
    outcome := 'stored';
END $$;
REVOKE ALL ON FUNCTION study_operator.note_change(), study_operator.admit(integer, bigint), study_operator.store(integer, jsonb)
FROM PUBLIC;
