-- Wishes: what people ask of trials by the trials API. The operator remains the only writer of trials. The reader's login may
-- execute the functions here, which note a wish with who asks and when. The operator does it at its next look.
--
-- `study-operator migrate` runs this file after reading.sql. Every statement can be repeated. Operators of before need nothing of it,
-- and leave wishes alone.

-- A wish goes with its study, and with its trial. It stays when it is done: it says who has asked. There is one of a kind for each
-- trial, and for each study, and its content is small, so a study's wishes are bounded by its trials.
CREATE TABLE IF NOT EXISTS study_operator.wishes (
    wish_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_id  integer     NOT NULL REFERENCES public.studies (study_id) ON DELETE CASCADE,
    trial_id  integer     REFERENCES public.trials (trial_id) ON DELETE CASCADE,     -- NULL if the wish is about the study
    kind      text        NOT NULL,             -- Stop, of a trial; Purge, of the rows of a deleted Study
    -- Of Stop: {"as": "PRUNED"} or "FAIL". Of Purge: {"uid": ...}, of the Study that is gone: its rows may become another's.
    content   jsonb       NOT NULL CHECK (octet_length(content::text) <= 16384),
    wished_by text        NOT NULL CHECK (length(wished_by) BETWEEN 1 AND 256),      -- the user, as the API server knows them
    wished_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX IF NOT EXISTS wishes_by_trial ON study_operator.wishes (trial_id, kind);
CREATE UNIQUE INDEX IF NOT EXISTS wishes_about_studies ON study_operator.wishes (study_id, kind) WHERE trial_id IS NULL;
CREATE INDEX IF NOT EXISTS wishes_by_study ON study_operator.wishes (study_id);
REVOKE ALL ON study_operator.wishes FROM PUBLIC;

-- Notes that a running trial is to end now. Returns why not, in words; or what is noted, which is the first wish if there was one.
-- It waits for no writer of trials, and no writer waits for it: the trial may end at this moment, and then the wish means nothing.
CREATE OR REPLACE FUNCTION study_reading.stop_trial(
    of_cluster text, of_trial integer, wanted text, asked_by text,
    OUT refused text, OUT told_as text, OUT told_by text, OUT told_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trial record;
BEGIN
    IF wanted IS NULL OR wanted NOT IN ('PRUNED', 'FAIL') THEN
        RAISE EXCEPTION 'a trial is stopped as PRUNED or as FAIL';
    END IF;
    SELECT t.study_id, t.state::text AS state, a.key_hash IS NULL AS gone,
           EXISTS (SELECT FROM public.trial_system_attributes s WHERE s.trial_id = t.trial_id AND s.key = 'study_operator:job') AS ours
    INTO trial
    FROM public.trials t JOIN study_operator.access a ON a.study_id = t.study_id
    WHERE t.trial_id = of_trial AND a.cluster_id = of_cluster;
    IF NOT FOUND THEN
        refused := 'its rows have just been deleted';
    ELSIF trial.gone THEN
        refused := 'its Study was deleted, and nothing of it runs';
    ELSIF trial.state = 'WAITING' THEN
        refused := 'it has not been started yet, and only a running trial can be stopped';
    ELSIF trial.state <> 'RUNNING' THEN
        refused := format('it has ended already, and is %s', trial.state);
    ELSIF NOT trial.ours THEN
        refused := 'another program runs it, such as a notebook, and not the operator: end it there';
    END IF;
    IF refused IS NOT NULL THEN
        RETURN;
    END IF;
    INSERT INTO study_operator.wishes (study_id, trial_id, kind, content, wished_by)
    VALUES (trial.study_id, of_trial, 'Stop', jsonb_build_object('as', wanted), left(asked_by, 256))
    ON CONFLICT (trial_id, kind) DO NOTHING;
    -- Also if it was noted before: whoever asks again may do so because nothing has happened.
    PERFORM pg_notify(i.channel, 'wish ' || trial.study_id) FROM study_operator.installation i;
    SELECT w.content ->> 'as', w.wished_by, w.wished_at INTO told_as, told_by, told_at
    FROM study_operator.wishes w WHERE w.trial_id = of_trial AND w.kind = 'Stop';
END $$;
REVOKE ALL ON FUNCTION study_reading.stop_trial(text, integer, text, text) FROM PUBLIC;

-- Notes that the rows of a deleted Study are to be removed. Returns why not, in words; or what is noted, the first wish if there was
-- one. The operator removes them at its next sweep. Nothing wakes it: who asks for it may have many such Studies.
CREATE OR REPLACE FUNCTION study_reading.purge_study(
    of_cluster text, of_study integer, asked_by text, OUT refused text, OUT told_by text, OUT told_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    study study_operator.access;
BEGIN
    SELECT a.* INTO study FROM study_operator.access a
    WHERE a.study_id = of_study AND a.cluster_id = of_cluster FOR KEY SHARE;
    IF NOT FOUND THEN
        refused := 'its rows have just been deleted';
        RETURN;
    ELSIF study.key_hash IS NOT NULL THEN
        refused := 'its Study has not been deleted, and only what a deleted one has left can be purged';
        RETURN;
    END IF;
    DELETE FROM study_operator.wishes w  -- of an earlier Study, whose rows have become those of this one
    WHERE w.study_id = of_study AND w.kind = 'Purge' AND w.content ->> 'uid' <> study.uid;
    INSERT INTO study_operator.wishes (study_id, kind, content, wished_by)
    VALUES (of_study, 'Purge', jsonb_build_object('uid', study.uid), left(asked_by, 256))
    ON CONFLICT (study_id, kind) WHERE trial_id IS NULL DO NOTHING;
    SELECT w.wished_by, w.wished_at INTO told_by, told_at
    FROM study_operator.wishes w WHERE w.study_id = of_study AND w.kind = 'Purge';
END $$;
REVOKE ALL ON FUNCTION study_reading.purge_study(text, integer, text) FROM PUBLIC;
