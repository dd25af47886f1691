-- Which database this is, and whether it has been restored. The operator compares this with what is noted on each Study
-- (model/mark.py) before it touches anything of the study.
--
-- `study-operator migrate` runs this file after tables.sql. Every statement can be repeated.

CREATE TABLE IF NOT EXISTS study_operator.identity (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id          text NOT NULL DEFAULT gen_random_uuid()::text,  -- a dump carries it along
    incarnation text NOT NULL,                                  -- of the server's files and of this very table; a dump does not know it
    restored_at timestamptz                                     -- when the operator first saw the latest restore; NULL: never restored
);
REVOKE ALL ON study_operator.identity FROM PUBLIC;

-- A random text for each study, so that rows which were made anew, or come from another time, are told from those before. It is empty
-- for studies of versions before 0.3, and for those of a dump from then.
ALTER TABLE study_operator.access
    ADD COLUMN IF NOT EXISTS token text NOT NULL DEFAULT '';

-- Clusters that do not exist any more, as an administrator has written here: Studies of this cluster may go on with their rows. Without
-- it, a tenant could take the rows of the namespace of the same name of another cluster that still works on them.
CREATE TABLE IF NOT EXISTS study_operator.lost_clusters (
    cluster_id text PRIMARY KEY,        -- UID of the cluster's kube-system namespace
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
REVOKE ALL ON study_operator.lost_clusters FROM PUBLIC;

-- Returns the server's own identifier and this database's incarnation: it changes when a dump is restored (other numbers of database
-- and table), when the server's files are restored to an earlier time or a standby is promoted (timeline), and with another server.
-- Where the functions may not be executed, which some services do, the server is '-', and id and name of the database must do.
CREATE OR REPLACE FUNCTION study_operator.whereabouts(OUT server text, OUT incarnation text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    timeline text := '-';
BEGIN
    server := '-';
    IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
        server := (SELECT s.system_identifier FROM pg_control_system() s);
    END IF;
    IF has_function_privilege('pg_control_checkpoint()', 'EXECUTE') THEN
        timeline := (SELECT c.timeline_id FROM pg_control_checkpoint() c);
    END IF;
    incarnation := concat_ws('/', server, timeline, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()),
        'study_operator.identity'::regclass::oid);
END $$;

-- Returns which database this is. Notes a restore, by the clock of the database, when it is seen for the first time.
CREATE OR REPLACE FUNCTION study_operator.here(
    OUT id text, OUT server text, OUT database text, OUT incarnation text, OUT restored_at timestamptz)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known text;
BEGIN
    database := current_database();
    SELECT w.server, w.incarnation INTO here.server, here.incarnation FROM study_operator.whereabouts() w;
    SELECT i.id, i.incarnation, i.restored_at INTO here.id, known, here.restored_at FROM study_operator.identity i;
    IF known <> here.incarnation THEN
        UPDATE study_operator.identity i SET incarnation = here.incarnation, restored_at = clock_timestamp()
        WHERE i.incarnation = known;
        SELECT i.restored_at INTO here.restored_at FROM study_operator.identity i;
    END IF;
END $$;
REVOKE ALL ON FUNCTION study_operator.whereabouts(), study_operator.here() FROM PUBLIC;

INSERT INTO study_operator.identity (incarnation) SELECT w.incarnation FROM study_operator.whereabouts() w ON CONFLICT DO NOTHING;
