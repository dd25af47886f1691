-- What people may read: views of studies, trials and reports, and a numbered log of what has changed, for the trials API.
--
-- The login of the trials API, the reader, may SELECT from the views of the schema study_reading and execute its function. It has no
-- right on any table and on no other schema (storage/reader_login.py grants). The views show nothing that is secret: no key, no hash
-- of one, no login, and no log but the last line of it.
--
-- `study-operator migrate` runs this file after mirror.sql. Every statement can be repeated. Operators of before need nothing of it,
-- and go on working with it.

CREATE SCHEMA IF NOT EXISTS study_reading;
REVOKE ALL ON SCHEMA study_reading FROM PUBLIC;

-- Part 1. The log of changes, for watches.
--
-- Triggers note what changes, without a number: transactions become visible in another order than they began, so a number that a
-- trigger drew could appear after a higher one had been read. number_changes() numbers the notes that are visible, one call after the
-- other. A transaction that is still open has no number yet, and gets one above all that were given out.

-- Notes that have no number yet. A transaction that changes a trial twice makes one note, and never meets another transaction's.
CREATE TABLE IF NOT EXISTS study_operator.unnumbered_changes (
    xact       xid8    NOT NULL DEFAULT pg_current_xact_id(),
    kind       text    NOT NULL,                -- trial, trials-deleted or study
    id         integer NOT NULL,                -- trial_id of a trial, study_id of the others
    first      integer NOT NULL DEFAULT 0,      -- numbers of the deleted trials
    last       integer NOT NULL DEFAULT 0,
    was        text,                            -- a trial's state before, if it changed
    made       boolean NOT NULL DEFAULT false,  -- the trial is new
    noted      bigint  GENERATED ALWAYS AS IDENTITY,
    cluster_id text,                            -- whose the study was before, for deleted trials and a changed study
    namespace  text,
    name       text,
    uid        text,
    deleted    boolean,
    PRIMARY KEY (xact, kind, id, first)
);

CREATE TABLE IF NOT EXISTS study_operator.numbered_changes (
    number     bigint      PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind       text        NOT NULL,
    trial_id   integer,                         -- of a trial only
    study_id   integer     NOT NULL,
    cluster_id text        NOT NULL,
    namespace  text        NOT NULL,
    name       text        NOT NULL,
    uid        text        NOT NULL,
    deleted    boolean     NOT NULL,
    first      integer     NOT NULL,
    last       integer     NOT NULL,
    was        text,
    made       boolean     NOT NULL
);
CREATE INDEX IF NOT EXISTS numbered_changes_by_trial ON study_operator.numbered_changes (trial_id);

-- The last number that was given out, and the last one that is not kept any more: one row. Numbers follow the clock, in microseconds,
-- so that a database that was restored to an earlier time gives none out for a second time. Changes are noted until `noted_until`:
-- the operator moves it on while the trials API is in use, so that nothing piles up when nobody numbers and prunes.
CREATE TABLE IF NOT EXISTS study_operator.change_numbers (
    only_one    boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    last        bigint      NOT NULL,
    gone        bigint      NOT NULL,
    noted_until timestamptz NOT NULL,
    incarnation text        NOT NULL        -- as in identity.sql, when that was last compared
) WITH (fillfactor = 50);
INSERT INTO study_operator.change_numbers (last, gone, noted_until, incarnation)
SELECT t.now, t.now, '-infinity', '' FROM (SELECT extract(epoch FROM clock_timestamp()) * 1000000 AS now) t
ON CONFLICT DO NOTHING;
REVOKE ALL ON study_operator.unnumbered_changes, study_operator.numbered_changes, study_operator.change_numbers FROM PUBLIC;

-- Notes a change of a trial. It runs with its owner's rights, so that a notebook's login needs no rights on the operator's tables.
CREATE OR REPLACE FUNCTION study_operator.note_trial() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text;
BEGIN
    IF NOT EXISTS (SELECT FROM study_operator.change_numbers n WHERE n.noted_until > clock_timestamp()) THEN
        RETURN NULL;
    END IF;
    IF TG_TABLE_NAME = 'trials' AND TG_OP = 'UPDATE' THEN
        before := OLD.state;
    END IF;
    INSERT INTO study_operator.unnumbered_changes AS c (kind, id, was, made)
    VALUES ('trial', NEW.trial_id, before, TG_TABLE_NAME = 'trials' AND TG_OP = 'INSERT')
    ON CONFLICT (xact, kind, id, first) DO UPDATE SET was = excluded.was WHERE c.was IS NULL AND excluded.was IS NOT NULL;
    RETURN NULL;
END $$;

-- Notes which trials a statement has deleted: one note for numbers without a gap, so that a study of any size is one.
CREATE OR REPLACE FUNCTION study_operator.note_deleted_trials() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO study_operator.unnumbered_changes
        (kind, id, first, last, cluster_id, namespace, name, uid, deleted)
    SELECT 'trials-deleted', a.study_id, min(d.number), max(d.number), a.cluster_id, a.namespace, a.name, a.uid,
           a.key_hash IS NULL
    FROM (SELECT g.study_id, g.number, g.number - row_number() OVER (PARTITION BY g.study_id ORDER BY g.number) AS run
          FROM gone g WHERE g.number IS NOT NULL) d
    JOIN study_operator.access a ON a.study_id = d.study_id
    WHERE EXISTS (SELECT FROM study_operator.change_numbers n WHERE n.noted_until > clock_timestamp())
    GROUP BY a.study_id, d.run
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

-- Notes that a study has become another Study's, or that its Study is gone or is back: its trials have other names then. If it comes
-- from another cluster, which is lost, the new one hears of it.
CREATE OR REPLACE FUNCTION study_operator.note_study() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO study_operator.unnumbered_changes (kind, id, cluster_id, namespace, name, uid, deleted)
    SELECT 'study', OLD.study_id, NEW.cluster_id, OLD.namespace, OLD.name, OLD.uid, OLD.key_hash IS NULL
    WHERE EXISTS (SELECT FROM study_operator.change_numbers n WHERE n.noted_until > clock_timestamp())
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

-- Numbers the changes that are visible, ten thousand at most, and returns the last number. Nothing is written if there are none.
-- An earlier change of the same trial that was no change of its state is forgotten: who has not read it yet will read this one. So a
-- program that sets attributes all day adds one row. It is planned each time (force_custom_plan): a session that planned it once for
-- empty tables would go through all trials for each note when there are thousands.
CREATE OR REPLACE FUNCTION study_reading.number_changes() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    base bigint;
    highest bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM study_operator.unnumbered_changes) THEN
        RETURN (SELECT n.last FROM study_operator.change_numbers n);
    END IF;
    SELECT greatest(n.last, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) INTO base
    FROM study_operator.change_numbers n FOR UPDATE;  -- one call after the other, until the end of the transaction
    WITH taken AS (
        DELETE FROM study_operator.unnumbered_changes u
        WHERE u.ctid = ANY (ARRAY(SELECT o.ctid FROM study_operator.unnumbered_changes o ORDER BY o.noted LIMIT 10000))
        RETURNING u.*
    ), changed AS (
        SELECT 'trial' AS kind, t.trial_id, t.study_id, a.cluster_id, a.namespace, a.name, a.uid, a.key_hash IS NULL AS deleted,
               t.number AS first, t.number AS last, c.was, c.made, c.noted
        FROM (SELECT u.id, (array_agg(u.was ORDER BY u.noted) FILTER (WHERE u.was IS NOT NULL))[1] AS was,
                     bool_or(u.made) AS made, max(u.noted) AS noted
              FROM taken u WHERE u.kind = 'trial' GROUP BY u.id) c
        JOIN public.trials t ON t.trial_id = c.id
        JOIN study_operator.access a ON a.study_id = t.study_id
        UNION ALL
        SELECT u.kind, NULL, u.id, u.cluster_id, u.namespace, u.name, u.uid, u.deleted, u.first,
               CASE u.kind WHEN 'study' THEN coalesce((SELECT max(t.number) FROM public.trials t WHERE t.study_id = u.id), -1)
                           ELSE u.last END, NULL, false, u.noted
        FROM taken u WHERE u.kind <> 'trial'
    ), superseded AS (
        DELETE FROM study_operator.numbered_changes o USING changed c
        WHERE o.trial_id = c.trial_id AND o.was IS NULL AND NOT o.made
    ), numbered AS (
        INSERT INTO study_operator.numbered_changes
            (number, kind, trial_id, study_id, cluster_id, namespace, name, uid, deleted, first, last, was, made)
        SELECT base + row_number() OVER (ORDER BY c.noted), c.kind, c.trial_id, c.study_id, c.cluster_id, c.namespace, c.name,
               c.uid, c.deleted, c.first, c.last,
               CASE c.was WHEN 'WAITING' THEN 'Waiting' WHEN 'RUNNING' THEN 'Running' WHEN 'COMPLETE' THEN 'Complete'
                          WHEN 'PRUNED' THEN 'Pruned' WHEN 'FAIL' THEN 'Failed' END, c.made
        FROM changed c RETURNING number
    )
    SELECT max(n.number) INTO highest FROM numbered n;
    UPDATE study_operator.change_numbers n SET last = highest WHERE highest IS NOT NULL;
    RETURN (SELECT n.last FROM study_operator.change_numbers n);
END $$;

-- For the operator: numbers what nobody has numbered, forgets what is older than ten minutes, `most` rows at most, and lets changes be
-- noted for another hour. If they have not been noted for a while, or the database has been restored, all numbers that were given out
-- are gone. Returns whether there is more to forget.
CREATE OR REPLACE FUNCTION study_operator.prune_changes(most integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    here constant text := (SELECT w.incarnation FROM study_operator.whereabouts() w);
    now constant bigint := extract(epoch FROM clock_timestamp()) * 1000000;
    forgotten bigint;
    rows integer;
BEGIN
    PERFORM FROM study_operator.change_numbers FOR UPDATE;  -- before any row of the log, as number_changes() does
    PERFORM study_reading.number_changes();
    UPDATE study_operator.change_numbers n
    SET last = greatest(n.last + 1, now), gone = greatest(n.last + 1, now), incarnation = here
    WHERE n.noted_until < clock_timestamp() OR n.incarnation <> here;
    WITH old AS (
        DELETE FROM study_operator.numbered_changes c WHERE c.number IN (
            SELECT o.number FROM study_operator.numbered_changes o, study_operator.change_numbers n
            WHERE o.at < clock_timestamp() - interval '10 minutes' OR o.number <= n.gone ORDER BY o.number LIMIT most)
        RETURNING c.number)
    SELECT max(o.number), count(*) INTO forgotten, rows FROM old o;
    UPDATE study_operator.change_numbers n
    SET gone = greatest(n.gone, forgotten), noted_until = clock_timestamp() + interval '1 hour';
    RETURN rows = most OR EXISTS (SELECT FROM study_operator.unnumbered_changes OFFSET 10000);
END $$;
REVOKE ALL ON FUNCTION study_operator.note_trial(), study_operator.note_deleted_trials(), study_operator.note_study(),
    study_operator.prune_changes(integer), study_reading.number_changes() FROM PUBLIC;

-- Makes one trigger or index that is not there yet, and returns whether it has made one. The caller commits after each: an operator's
-- transaction writes to these tables in another order, and the two would wait for each other. Reports have no trigger: they
-- come up to a thousand a second, and are no change. Of what the operator stores itself, parameters and values come with a change of
-- the state; of system attributes, people see two kinds.
CREATE OR REPLACE FUNCTION study_operator.note_changes() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    others constant text := 'current_setting(''study_operator.own'', true) IS DISTINCT FROM ''on''';
    made record;
BEGIN
    FOR made IN VALUES
        ('public.trials', 'study_reading_made', 'AFTER INSERT', 'ROW', 'note_trial'),
        ('public.trials', 'study_reading_changed', 'AFTER UPDATE OF state', 'ROW WHEN (OLD.state <> NEW.state)', 'note_trial'),
        ('public.trials', 'study_reading_deleted', 'AFTER DELETE', 'STATEMENT', 'note_deleted_trials'),
        ('public.trial_params', 'study_reading_changed', 'AFTER INSERT OR UPDATE', format('ROW WHEN (%s)', others), 'note_trial'),
        ('public.trial_values', 'study_reading_changed', 'AFTER INSERT OR UPDATE', format('ROW WHEN (%s)', others), 'note_trial'),
        ('public.trial_user_attributes', 'study_reading_changed', 'AFTER INSERT OR UPDATE',
         format('ROW WHEN (%s AND NEW.key NOT LIKE ''study_operator:%%'')', others), 'note_trial'),
        ('public.trial_system_attributes', 'study_reading_changed', 'AFTER INSERT OR UPDATE',
         'ROW WHEN (NEW.key = ''study_operator:job'' OR starts_with(NEW.key, ''constraints:''))', 'note_trial'),
        ('study_operator.incidents', 'study_reading_changed', 'AFTER INSERT', format('ROW WHEN (%s)', others), 'note_trial'),
        ('study_operator.access', 'study_reading_changed', 'AFTER UPDATE', 'ROW WHEN ((OLD.key_hash IS NULL, OLD.cluster_id,'
         ' OLD.namespace, OLD.name, OLD.uid) IS DISTINCT FROM (NEW.key_hash IS NULL, NEW.cluster_id, NEW.namespace, NEW.name,'
         ' NEW.uid))', 'note_study')
    LOOP  -- CREATE OR REPLACE would wait for every writer each time
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = made.column1::regclass AND t.tgname = made.column2) THEN
            EXECUTE format('CREATE TRIGGER %s %s ON %s %s FOR EACH %s EXECUTE FUNCTION study_operator.%s()', made.column2,
                made.column3, made.column1, CASE made.column4 WHEN 'STATEMENT' THEN 'REFERENCING OLD TABLE AS gone' ELSE '' END,
                made.column4, made.column5);
            RETURN true;
        END IF;
    END LOOP;
    -- Pages of trials are read in this order. Without it each page would sort all trials of its study.
    IF to_regclass('public.study_operator_numbers') IS NULL THEN
        CREATE INDEX study_operator_numbers ON public.trials (study_id, number);
        RETURN true;
    END IF;
    RETURN false;
END $$;
REVOKE ALL ON FUNCTION study_operator.note_changes() FROM PUBLIC;

-- Part 2. The views. They run with their owner's rights. They call no function of ours, because whoever reads a view must be allowed
-- to execute what it calls. What a row shows is bounded, whatever a program or a notebook has stored.

CREATE OR REPLACE VIEW study_reading.studies AS
SELECT a.study_id, a.cluster_id, a.namespace, a.name, a.uid,
       a.key_hash IS NULL AS deleted,           -- the Study is gone, and its rows were kept
       ARRAY(SELECT d.direction::text FROM public.study_directions d WHERE d.study_id = a.study_id ORDER BY d.objective) AS directions,
       (SELECT left(s.value_json, 65536) FROM public.study_system_attributes s
        WHERE s.study_id = a.study_id AND s.key = 'study:metric_names') AS metric_names
FROM study_operator.access a;

-- Columns are subqueries, so that a query pays for those that it asks for, and only for its rows.
CREATE OR REPLACE VIEW study_reading.trials AS
SELECT t.trial_id, t.study_id, t.number,
       CASE t.state::text  -- the names of the Study's status
           WHEN 'WAITING' THEN 'Waiting'
           WHEN 'RUNNING' THEN 'Running'
           WHEN 'FAIL' THEN CASE WHEN EXISTS (SELECT FROM study_operator.incidents i WHERE i.trial_id = t.trial_id
                                              AND i.kind = 'Terminated') THEN 'Terminated' ELSE 'Failed' END
           ELSE CASE WHEN EXISTS (SELECT FROM study_operator.incidents i WHERE i.trial_id = t.trial_id
                                  AND i.kind = 'Infeasible') THEN 'Infeasible'
                     WHEN t.state = 'PRUNED' THEN 'Pruned' ELSE 'Complete' END
       END AS state,
       -- UTC. A notebook may store what is no time to Python.
       CASE WHEN t.datetime_start BETWEEN '0001-01-02' AND '9999-12-30' THEN t.datetime_start END AS started,
       CASE WHEN t.datetime_complete BETWEEN '0001-01-02' AND '9999-12-30' THEN t.datetime_complete END AS ended,
       ARRAY(SELECT CASE v.value_type::text WHEN 'INF_POS' THEN 'Infinity' WHEN 'INF_NEG' THEN '-Infinity' ELSE v.value END
             FROM public.trial_values v WHERE v.trial_id = t.trial_id ORDER BY v.objective LIMIT 64) AS vals,
       -- Name, number as which Optuna stores the value, and a hash that tells a distribution from the study's others.
       (SELECT json_agg(json_build_array(p.param_name, p.param_value, hashtextextended(p.distribution_json, 0))
                        ORDER BY p.param_id)
        FROM (SELECT * FROM public.trial_params o WHERE o.trial_id = t.trial_id ORDER BY o.param_id LIMIT 256) p) AS params,
       (SELECT r.constraint_values FROM study_operator.results r WHERE r.trial_id = t.trial_id AND NOT r.provisional) AS constraints,
       (SELECT json_object_agg(substr(s.key, 13), left(s.value_json, 64)) FROM (
            SELECT * FROM public.trial_system_attributes o
            WHERE o.trial_id = t.trial_id AND starts_with(o.key, 'constraints:') LIMIT 64) s) AS violations,
       (SELECT json_agg(json_build_array(u.key, CASE WHEN length(u.value_json) <= 1024 THEN u.value_json END)
                        ORDER BY u.trial_user_attribute_id)
        FROM (SELECT * FROM public.trial_user_attributes o WHERE o.trial_id = t.trial_id AND o.key NOT LIKE 'study_operator:%'
              ORDER BY o.trial_user_attribute_id LIMIT 64) u) AS attributes,
       (SELECT count(*) FROM public.trial_user_attributes u
        WHERE u.trial_id = t.trial_id AND u.key NOT LIKE 'study_operator:%') AS attribute_count,
       (SELECT ARRAY[i.step::double precision,
                     CASE i.intermediate_value_type::text WHEN 'INF_POS' THEN 'Infinity' WHEN 'INF_NEG' THEN '-Infinity'
                                                          WHEN 'NAN' THEN 'NaN' ELSE i.intermediate_value END]
        FROM public.trial_intermediate_values i WHERE i.trial_id = t.trial_id ORDER BY i.step DESC LIMIT 1) AS last_report,
       (SELECT left(s.value_json, 1024) FROM public.trial_system_attributes s
        WHERE s.trial_id = t.trial_id AND s.key = 'study_operator:job') AS job,
       (SELECT json_build_array(i.kind, left(i.reason, 256), left(i.message, 2048), i.exit_code, left(i.last_log_line, 2048))
        FROM study_operator.incidents i WHERE i.trial_id = t.trial_id ORDER BY i.incident_id DESC LIMIT 1) AS failure
FROM public.trials t JOIN study_operator.access a ON a.study_id = t.study_id;

-- The distributions of parameters, which say what a stored number means.
CREATE OR REPLACE VIEW study_reading.params AS
SELECT p.trial_id, p.param_name AS name, p.distribution_json AS distribution
FROM public.trial_params p;

CREATE OR REPLACE VIEW study_reading.reports AS
SELECT i.trial_id, i.step,
       CASE i.intermediate_value_type::text WHEN 'INF_POS' THEN 'Infinity' WHEN 'INF_NEG' THEN '-Infinity' WHEN 'NAN' THEN 'NaN'
                                            ELSE i.intermediate_value END AS value
FROM public.trial_intermediate_values i;

CREATE OR REPLACE VIEW study_reading.changes AS
SELECT c.number, c.at, c.kind, c.study_id, c.cluster_id, c.namespace, c.name, c.uid, c.deleted, c.first, c.last, c.was, c.made
FROM study_operator.numbered_changes c;

CREATE OR REPLACE VIEW study_reading.numbers AS
SELECT n.last, n.gone FROM study_operator.change_numbers n;

REVOKE ALL ON ALL TABLES IN SCHEMA study_reading FROM PUBLIC;
