-- What people wish of a study's trials: to stop one, to try parameters next, to exclude a value, to purge what a deleted Study has left.
--
-- The operator is the only one that writes to trials. The trials API notes a wish here, with the one function below, for somebody of
-- whom Kubernetes has said that they may. The operator reads the wishes of the studies that it serves, does what they say, and answers.
--
-- `study-operator migrate` runs this file after reading.sql. Every statement can be repeated.

CREATE TABLE IF NOT EXISTS study_operator.wishes (
    wish_id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cluster_id  text        NOT NULL,
    namespace   text        NOT NULL,           -- of the Study, which may be gone
    study_id    integer     NOT NULL,
    number      integer,                        -- the trial's; NULL for acts that concern no trial
    act         text        NOT NULL CHECK (act IN ('stop', 'enqueue', 'exclude', 'include', 'purge')),
    content     jsonb       NOT NULL,           -- what the act needs to know, such as parameters
    wished_by   text        NOT NULL,           -- the user's name, as Kubernetes knows it
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    answered_at timestamptz,                    -- NULL: the operator has not looked at it yet
    granted     boolean,
    answer      text                            -- in words: what was done, or why it was not
);
CREATE INDEX IF NOT EXISTS wishes_open ON study_operator.wishes (study_id, wish_id) WHERE answered_at IS NULL;
CREATE INDEX IF NOT EXISTS wishes_by_namespace ON study_operator.wishes (cluster_id, namespace, wish_id);
REVOKE ALL ON study_operator.wishes FROM PUBLIC;

-- Notes a wish, and wakes the operator. Returns its number. The same wish that has no answer yet is noted once.
-- Refusals: SO012 there is no such study or trial, SO013 the act does not fit it, SO006 the namespace has a thousand open wishes.
CREATE OR REPLACE FUNCTION study_reading.wish(
    cluster text, study integer, trial integer, what text, details jsonb, by_whom text)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    owner study_operator.access;
    noted bigint;
BEGIN
    SELECT * INTO owner FROM study_operator.access a WHERE a.study_id = study AND a.cluster_id = cluster;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SO012', MESSAGE = 'there is no such study';
    ELSIF what IS NULL OR what NOT IN ('stop', 'enqueue', 'exclude', 'include', 'purge') THEN
        RAISE EXCEPTION USING ERRCODE = 'SO013', MESSAGE = format('there is no act %s', left(what, 63));
    ELSIF (what IN ('stop', 'exclude', 'include')) <> (trial IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'SO013', MESSAGE = format('%s is of a %s', what,
            CASE WHEN trial IS NULL THEN 'trial: name it' ELSE 'study, and not of one trial' END);
    ELSIF trial IS NOT NULL AND NOT EXISTS (SELECT FROM public.trials t WHERE t.study_id = study AND t.number = trial) THEN
        RAISE EXCEPTION USING ERRCODE = 'SO012', MESSAGE = format('the study has no trial %s', trial);
    ELSIF (what = 'purge') <> (owner.key_hash IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'SO013', MESSAGE = CASE what
            WHEN 'purge' THEN 'the Study exists: what it has stored is removed with it, by deletionPolicy: Delete'
            ELSE 'the Study is deleted: its trials can be purged, and nothing else' END;
    ELSIF details IS NULL OR octet_length(details::text) > 65536 OR by_whom IS NULL OR length(by_whom) > 1024 THEN
        RAISE EXCEPTION USING ERRCODE = 'SO013', MESSAGE = 'a wish says who has it, and what it needs to say in 64 KiB';
    END IF;
    -- Who wishes at the same time waits here, so that the bound holds and the same wish is noted once.
    PERFORM pg_advisory_xact_lock(hashtextextended('study_operator wishes of ' || owner.namespace, 0));
    SELECT w.wish_id INTO noted FROM study_operator.wishes w
    WHERE w.study_id = study AND w.answered_at IS NULL AND w.number IS NOT DISTINCT FROM trial AND w.act = what AND w.content = details;
    IF NOT FOUND THEN
        IF (SELECT count(*) FROM study_operator.wishes w WHERE w.cluster_id = cluster AND w.namespace = owner.namespace
            AND w.answered_at IS NULL) >= 1000 THEN
            RAISE EXCEPTION USING ERRCODE = 'SO006', MESSAGE =
                'a thousand wishes of this namespace have no answer yet: wait until the operator has seen to them';
        END IF;
        INSERT INTO study_operator.wishes (cluster_id, namespace, study_id, number, act, content, wished_by)
        VALUES (cluster, owner.namespace, study, trial, what, details, by_whom) RETURNING wish_id INTO noted;
    END IF;
    PERFORM pg_notify(i.channel, study::text) FROM study_operator.installation i;
    RETURN noted;
END $$;
REVOKE ALL ON FUNCTION study_reading.wish(text, integer, integer, text, jsonb, text) FROM PUBLIC;

CREATE OR REPLACE VIEW study_reading.wishes AS
SELECT w.wish_id, w.cluster_id, w.namespace, w.study_id, w.number, w.act, w.content, w.wished_by, w.at, w.answered_at, w.granted, w.answer
FROM study_operator.wishes w;
REVOKE ALL ON study_reading.wishes FROM PUBLIC;
