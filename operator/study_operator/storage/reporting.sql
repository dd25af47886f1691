-- The reporting functions: everything that a trial's pod may do in the database.
--
-- All pods log in as one role, the reporter :"reporter" (study_reporter unless configured otherwise). It owns nothing and reads no
-- table. It may execute the seven functions at the end of this file. New programs use only one of them: submit(message, proof).
-- The message says what to do, as JSON. The proof shows that its sender has the key of the trial's study, and it is valid for this
-- message only. So the key itself is in no query: PostgreSQL shows queries to all other connections of the same role
-- (pg_stat_activity). It is in no log either, and in nothing that a connection keeps, so a pooler may send each call over another
-- connection.
--
-- The six other functions are those of earlier versions. They find the key in a setting of the connection, which PostgreSQL shows to
-- no other connection: `options=-c study_operator.key=...`. A pooler does not pass this setting on.
--
-- Keys are stored as SHA-256 hashes. A slow hash would add nothing, because keys are 256 random bits.
--
-- `study-operator migrate` runs this file after tables.sql. Every statement can be repeated.
-- The SQLSTATEs of refusals, each of which is counted: SO001 wrong key, SO002 the trial is not running, SO003 bad argument, SO004 the
-- study has several objectives, SO005 a later message came first, SO006 a limit of the installation is reached.

-- Part 1. Who may call: by_proof() and by_setting() return the trial that the caller may act on, or refuse the call.

DO $$ BEGIN
    IF to_regtype('study_operator.caller') IS NULL THEN
        CREATE TYPE study_operator.caller AS (trial_id integer, study_id integer, state text, objectives integer);
    END IF;
    -- Functions of schema 2. A call that is under way during the migration from it may still need them, so only a later migration
    -- drops them.
    IF (SELECT max(version) FROM study_operator.schema_version) >= 3 THEN
        DROP FUNCTION IF EXISTS study_operator.store_result(integer, double precision[], boolean, jsonb, text, boolean);
        DROP FUNCTION IF EXISTS study_operator.authorise(integer);
    END IF;
END $$;

-- Refuses a call, and counts the refusal.
CREATE OR REPLACE FUNCTION study_operator.refuse(code text, message text, detail text DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval(('study_operator.refused_' || lower(code))::regclass);
    IF detail IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message;
    END IF;
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message, DETAIL = detail;
END $$;

-- Refuses a call whose key is wrong.
CREATE OR REPLACE FUNCTION study_operator.refuse_key(trial_id integer)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM study_operator.refuse('SO001', 'the key is not valid for this trial',
        'STUDY_STORAGE_KEY and STUDY_TRIAL_ID must be those of this trial''s own pod.');
END $$;

-- Returns a XOR b, each of 32 bytes. PostgreSQL has XOR for bit strings only. The text form of a bit string is 'x' and hexadecimal
-- digits; bit_send() puts the length in front, in four bytes.
CREATE OR REPLACE FUNCTION study_operator.xor(a bytea, b bytea) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT substr(bit_send(('x' || encode(a, 'hex'))::bit(256) # ('x' || encode(b, 'hex'))::bit(256)), 5)
$$;

-- Returns whether the sender of the proof has the key. As in SCRAM (RFC 5802) the proof is
--     key XOR HMAC-SHA-256(key_hash, message)        where key_hash = SHA-256(the key's 64 hexadecimal digits)
-- So the database can recover the key from the proof and compare its hash. It cannot make a proof from what it has stored, so a
-- backup is of no use to an attacker. By RFC 2104 HMAC(k, m) is SHA-256(k XOR 5c5c... || SHA-256(k XOR 3636... || m)), with k padded
-- with zeros to 64 bytes. How long the comparison of the hashes takes tells nothing that helps to guess a key.
CREATE OR REPLACE FUNCTION study_operator.is_proven(key_hash bytea, message text, proof bytea)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    inner_pad constant bytea := decode(repeat('36', 32), 'hex');
    outer_pad constant bytea := decode(repeat('5c', 32), 'hex');
    hmac constant bytea := sha256(study_operator.xor(key_hash, outer_pad) || outer_pad
        || sha256(study_operator.xor(key_hash, inner_pad) || inner_pad || convert_to(message, 'UTF8')));
BEGIN
    RETURN sha256(convert_to(encode(study_operator.xor(proof, hmac), 'hex'), 'UTF8')) = key_hash;
END $$;

-- Returns the caller, whom a message and its proof identify. No row is locked for a sender without the key.
-- `job` is the Job whose pod sends the message. A trial that runs again has another Job, so an attacker cannot replay messages that
-- were recorded from the first one. It is NULL if an earlier version of the operator, which did not pass the name, started the pod.
CREATE OR REPLACE FUNCTION study_operator.by_proof(trial_id integer, job text, message text, proof text)
RETURNS study_operator.caller LANGUAGE plpgsql AS $$
DECLARE
    caller study_operator.caller;
    hash bytea;
    current text;
BEGIN
    SELECT t.trial_id, t.study_id, a.objectives, a.key_hash
    INTO caller.trial_id, caller.study_id, caller.objectives, hash
    FROM public.trials t JOIN study_operator.access a ON a.study_id = t.study_id
    WHERE t.trial_id = by_proof.trial_id;
    IF hash IS NULL OR proof !~ '^[0-9a-f]{64}$' OR NOT study_operator.is_proven(hash, message, decode(proof, 'hex')) THEN
        PERFORM study_operator.refuse_key(trial_id);
    END IF;
    SELECT t.state::text INTO caller.state FROM public.trials t WHERE t.trial_id = by_proof.trial_id FOR SHARE;
    IF caller.state = 'RUNNING' AND job IS NOT NULL THEN
        SELECT s.value_json::jsonb #>> '{}' INTO current FROM public.trial_system_attributes s
        WHERE s.trial_id = by_proof.trial_id AND s.key = 'study_operator:job';
        IF current <> job THEN
            PERFORM study_operator.refuse('SO002', format('the trial runs again as Job %s, and is no longer that of Job %s',
                current, left(job, 63)));
        END IF;
    END IF;
    RETURN caller;
END $$;

-- Returns the caller, whom the connection's setting identifies. The lock on the trial's row, here and above, makes a report and the
-- operator's decision about the same trial happen one after the other. Without it a value could be stored for a trial just pruned.
CREATE OR REPLACE FUNCTION study_operator.by_setting(trial_id integer)
RETURNS study_operator.caller LANGUAGE plpgsql AS $$
DECLARE
    caller study_operator.caller;
BEGIN
    SELECT t.trial_id, t.study_id, t.state::text, a.objectives INTO caller
    FROM public.trials t JOIN study_operator.access a ON a.study_id = t.study_id
    WHERE t.trial_id = by_setting.trial_id
      AND a.key_hash = sha256(convert_to(current_setting('study_operator.key', true), 'UTF8'))
    FOR SHARE OF t;
    IF NOT FOUND THEN
        PERFORM study_operator.refuse_key(trial_id);
    END IF;
    RETURN caller;
END $$;

-- Refuses a message whose number is not higher than all before it, so that an attacker cannot replay an old message to undo a later
-- one. Only calls that override earlier values need it. A refused sender learns the last number; with the key it can send its message
-- again under a higher number.
CREATE OR REPLACE FUNCTION study_operator.come_after(trial_id integer, number bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF number IS NULL THEN
        PERFORM study_operator.refuse('SO003', 'a message of this kind needs a number');
    END IF;
    INSERT INTO study_operator.last_messages AS l (trial_id, number) VALUES (come_after.trial_id, come_after.number)
    ON CONFLICT ON CONSTRAINT last_messages_pkey DO UPDATE SET number = excluded.number WHERE l.number < excluded.number;
    IF NOT FOUND THEN
        PERFORM study_operator.refuse('SO005', format('the trial has had a later message than number %s', number),
            (SELECT l.number::text FROM study_operator.last_messages l WHERE l.trial_id = come_after.trial_id));
    END IF;
END $$;

-- What the studies of a study's namespace take in the database together. A look-up for each of them, in the index by name.
CREATE OR REPLACE FUNCTION study_operator.bytes_of_namespace(study_id integer)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(u.bytes), 0)::bigint
    FROM study_operator.access own
    JOIN study_operator.access a ON (a.cluster_id, a.namespace) = (own.cluster_id, own.namespace)
    JOIN study_operator.study_usage u ON u.study_id = a.study_id
    WHERE own.study_id = bytes_of_namespace.study_id
$$;

-- Adds to what a study takes in the database, and refuses what would be too much for it or for its namespace. Studies that add at
-- the same moment do not see each other, so a namespace may end a little above its limit.
CREATE OR REPLACE FUNCTION study_operator.take_bytes(study_id integer, more bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
    most study_operator.limits;
BEGIN
    SELECT * INTO most FROM study_operator.limits;
    INSERT INTO study_operator.study_usage AS u (study_id, bytes) VALUES (take_bytes.study_id, greatest(more, 0))
    ON CONFLICT ON CONSTRAINT study_usage_pkey DO UPDATE SET bytes = greatest(u.bytes + more, 0)
    RETURNING u.bytes INTO taken;
    IF more <= 0 THEN
        RETURN;
    ELSIF taken > most.bytes_per_study THEN
        PERFORM study_operator.refuse('SO006', format('reports and attributes of this study''s trials take %s bytes, and may take %s'
            ' (limits.bytesPerStudy): store large texts elsewhere and set their address as the attribute', taken,
            most.bytes_per_study));
    END IF;
    taken := study_operator.bytes_of_namespace(study_id);
    IF taken > most.bytes_per_namespace THEN
        PERFORM study_operator.refuse('SO006', format('reports and attributes of all studies of this namespace take %s bytes, and'
            ' may take %s (limits.bytesPerNamespace): delete Studies that nobody needs any more', taken, most.bytes_per_namespace));
    END IF;
END $$;

-- Counts a report that is about to be stored, and refuses one too many. A report takes some 100 bytes with its index.
CREATE OR REPLACE FUNCTION study_operator.take_report(caller study_operator.caller)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
    most constant bigint := (SELECT l.reports_per_trial FROM study_operator.limits l);
BEGIN
    INSERT INTO study_operator.trial_usage AS u (trial_id, study_id, reports) VALUES (caller.trial_id, caller.study_id, 1)
    ON CONFLICT ON CONSTRAINT trial_usage_pkey DO UPDATE SET reports = u.reports + 1
    RETURNING u.reports INTO taken;
    IF taken > most THEN
        PERFORM study_operator.refuse('SO006', format('the trial has reported %s intermediate values, as many as a trial may'
            ' (limits.reportsPerTrial): report less often', most));
    ELSIF taken % 1000 = 0 THEN
        PERFORM study_operator.take_bytes(caller.study_id, 100000);
    END IF;
END $$;

-- The same for reports that the operator has read from a trial's output. Returns how many of them may be stored. Nobody is there to
-- be refused.
CREATE OR REPLACE FUNCTION study_operator.take_reports(trial_id integer, study_id integer, more bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    taken bigint := coalesce((SELECT u.reports FROM study_operator.trial_usage u WHERE u.trial_id = take_reports.trial_id), 0);
    bytes bigint := coalesce((SELECT u.bytes FROM study_operator.study_usage u WHERE u.study_id = take_reports.study_id), 0);
    most study_operator.limits;
    fit bigint;
BEGIN
    SELECT * INTO most FROM study_operator.limits;
    fit := CASE WHEN bytes >= most.bytes_per_study OR study_operator.bytes_of_namespace(study_id) >= most.bytes_per_namespace THEN 0
                ELSE least(more, greatest(most.reports_per_trial - taken, 0)) END;
    IF fit > 0 THEN
        INSERT INTO study_operator.trial_usage AS u (trial_id, study_id, reports)
        VALUES (take_reports.trial_id, take_reports.study_id, fit)
        ON CONFLICT ON CONSTRAINT trial_usage_pkey DO UPDATE SET reports = u.reports + fit;
        IF (taken + fit) / 1000 > taken / 1000 THEN
            INSERT INTO study_operator.study_usage AS u (study_id, bytes)
            VALUES (take_reports.study_id, 100000 * ((taken + fit) / 1000 - taken / 1000))
            ON CONFLICT ON CONSTRAINT study_usage_pkey DO UPDATE SET bytes = u.bytes + excluded.bytes;
        END IF;
    END IF;
    RETURN fit;
END $$;


-- Part 2. The work, for a caller who has been identified.

-- Returns whether the trial has been pruned and should stop. If so, notes that its program has been told, so that it ends by itself and
-- gets its template's time for that. A report that comes more than a second later takes this back for good: the program goes on,
-- whatever it is told. Reports that have waited for the database come together, within that second.
CREATE OR REPLACE FUNCTION study_operator.told_to_stop(caller study_operator.caller, by_report boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF caller.state <> 'PRUNED' THEN
        RETURN false;
    END IF;
    INSERT INTO study_operator.stops (trial_id) VALUES (caller.trial_id) ON CONFLICT DO NOTHING;
    IF NOT FOUND AND by_report THEN
        UPDATE study_operator.stops s SET goes_on = true
        WHERE s.trial_id = caller.trial_id AND NOT s.goes_on AND s.told_at < clock_timestamp() - interval '1 second';
        IF FOUND THEN
            PERFORM pg_notify(i.channel, caller.study_id::text) FROM study_operator.installation i;
        END IF;
    END IF;
    RETURN true;
END $$;

-- Stores one intermediate value. The first value of a step stands, as in Optuna.
-- Returns true when the trial has been pruned and should stop.
--
-- The commit does not wait for the disk. NOTIFY allows only one commit at a time, so each report would wait for a disk write of its
-- own instead of sharing one. A crash of the server (not a restart) can lose the reports of its last half second, but no report that
-- had an effect: the write-ahead log is written in order, so a later commit, such as the trial's end or the pruner's decision, brings
-- the report to disk with it.
CREATE OR REPLACE FUNCTION study_operator.store_report(
    caller study_operator.caller, step bigint, value double precision)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF step IS NULL OR step < 0 OR step > 2147483647 THEN
        PERFORM study_operator.refuse('SO003', format('step must be between 0 and 2147483647, not %s', step));
    ELSIF value IS NULL THEN
        PERFORM study_operator.refuse('SO003', 'value must be a number (NaN and infinities included)');
    ELSIF caller.objectives > 1 THEN
        PERFORM study_operator.refuse('SO004', format('the study has %s objectives, and Optuna has no pruning with several: there'
            ' is nothing that could be done with values reported during a trial; report the final ones, by finish()',
            caller.objectives));
    ELSIF study_operator.told_to_stop(caller, true) THEN
        RETURN true;
    ELSIF caller.state <> 'RUNNING' THEN
        PERFORM study_operator.refuse('SO002', format('the trial is not running: it is %s', caller.state));
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);  -- until the end of this transaction
    INSERT INTO public.trial_intermediate_values AS v (trial_id, step, intermediate_value, intermediate_value_type)
    VALUES (
        caller.trial_id, store_report.step,
        CASE WHEN value IN ('NaN', 'Infinity', '-Infinity') THEN NULL ELSE value END,
        CASE value WHEN 'NaN' THEN 'NAN' WHEN 'Infinity' THEN 'INF_POS' WHEN '-Infinity' THEN 'INF_NEG'
                   ELSE 'FINITE' END::public.trialintermediatevaluetype)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM study_operator.take_report(caller);
    ELSIF NOT EXISTS (SELECT FROM study_operator.bad_reports b WHERE b.trial_id = caller.trial_id)
          AND NOT EXISTS (
              SELECT FROM public.trial_intermediate_values v
              WHERE v.trial_id = caller.trial_id AND v.step = store_report.step
                AND CASE v.intermediate_value_type::text WHEN 'FINITE' THEN v.intermediate_value WHEN 'NAN' THEN 'NaN'
                    WHEN 'INF_POS' THEN 'Infinity' ELSE '-Infinity' END = value) THEN
        -- Said once for each trial, like lines that cannot be read. A report that is sent again has the same value.
        INSERT INTO study_operator.bad_reports (trial_id, study_id, count, last)
        VALUES (caller.trial_id, caller.study_id, 1, format('step %s came again, with %s: the first value of a step'
            ' stands, and others are no reports', step, value))
        ON CONFLICT DO NOTHING;
    END IF;
    PERFORM pg_notify(i.channel, caller.study_id::text) FROM study_operator.installation i;
    RETURN false;
END $$;

-- Stores the final values, one per objective, and the values that the study's constraints limit, by name. Or it stores, without
-- values, that the script has pruned the trial itself, or why the parameters are infeasible. The same result may be sent again,
-- because an answer can get lost. Returns true when the operator had pruned the trial before; the values are then not needed.
-- A later result replaces a provisional one. It does not replace any other.
CREATE OR REPLACE FUNCTION study_operator.store_result(
    caller study_operator.caller, vals double precision[], pruned boolean, constraint_values jsonb, infeasible text,
    provisional boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    stored study_operator.results;
    given jsonb := '{}';
BEGIN
    IF pruned IS NULL OR vals IS NULL OR array_ndims(vals) > 1 THEN
        PERFORM study_operator.refuse('SO003', 'the final values are one list of numbers, empty when there are none');
    ELSIF array_position(vals, NULL) IS NOT NULL THEN
        PERFORM study_operator.refuse('SO003', 'every final value must be a number');
    ELSIF infeasible IS NOT NULL AND (pruned OR vals <> '{}') THEN
        PERFORM study_operator.refuse('SO003', 'a trial that is infeasible has no final values, and is not pruned');
    ELSIF length(infeasible) NOT BETWEEN 1 AND 1000 THEN
        PERFORM study_operator.refuse('SO003', format('why a trial is infeasible is said in 1 to 1000 characters, not %s',
            length(infeasible)));
    END IF;
    IF constraint_values IS NOT NULL AND constraint_values <> '{}' THEN
        IF jsonb_typeof(constraint_values) <> 'object' THEN
            PERFORM study_operator.refuse('SO003', 'constraints are one JSON object, such as {"latency_ms": 43}');
        ELSIF (SELECT count(*) > 20 OR bool_or(jsonb_typeof(e.value) <> 'number' OR length(e.key) NOT BETWEEN 1 AND 63)
               FROM jsonb_each(constraint_values) e) THEN
            PERFORM study_operator.refuse('SO003', 'constraints are at most 20 names of 1 to 63 characters, each with a number');
        END IF;
        BEGIN  -- JSON has numbers that no double precision holds
            SELECT jsonb_object_agg(e.key, e.value::double precision) INTO given FROM jsonb_each(constraint_values) e;
        EXCEPTION WHEN numeric_value_out_of_range THEN
            PERFORM study_operator.refuse('SO003', 'a constraint has a value beyond the range of double precision');
        END;
    END IF;
    IF cardinality(vals) <> caller.objectives AND NOT ((pruned OR infeasible IS NOT NULL) AND vals = '{}') THEN
        PERFORM study_operator.refuse('SO003', format('number of the study''s objectives: %s, of final values that were sent: %s',
            caller.objectives, cardinality(vals)));
    END IF;
    LOOP
        SELECT r.* INTO stored FROM study_operator.results r WHERE r.trial_id = caller.trial_id;
        IF FOUND AND (provisional OR NOT stored.provisional)
           AND (stored.vals, stored.pruned, stored.constraint_values, stored.infeasible)
               IS NOT DISTINCT FROM (vals, pruned, given, infeasible) THEN
            RETURN false;
        ELSIF FOUND AND NOT stored.provisional AND provisional THEN
            RETURN false;
        ELSIF FOUND AND NOT stored.provisional THEN
            PERFORM study_operator.refuse('SO002', 'the trial has its final values already, and they are others: if several of'
                ' its processes run the script, set RANK in each of them, or let one of them report');
        ELSIF caller.state = 'PRUNED' THEN
            RETURN true;
        ELSIF caller.state <> 'RUNNING' THEN
            PERFORM study_operator.refuse('SO002', format('the trial is not running: it is %s', caller.state));
        END IF;
        INSERT INTO study_operator.results AS r (trial_id, vals, pruned, constraint_values, infeasible, provisional)
        VALUES (caller.trial_id, store_result.vals, store_result.pruned, given, store_result.infeasible,
                store_result.provisional)
        ON CONFLICT ON CONSTRAINT results_pkey DO UPDATE
        SET vals = excluded.vals, pruned = excluded.pruned, constraint_values = excluded.constraint_values,
            infeasible = excluded.infeasible, provisional = excluded.provisional, reported_at = clock_timestamp()
        WHERE r.provisional;
        EXIT WHEN FOUND;  -- else another call has stored a result since it was looked for: look again
    END LOOP;
    PERFORM pg_notify(i.channel, caller.study_id::text) FROM study_operator.installation i;
    RETURN false;
END $$;

-- Stores as an incident, once for each trial, that another end was sent than the one that is stored. The call that has sent it was
-- refused, so that it could store nothing itself. The trial keeps the end that came first.
CREATE OR REPLACE FUNCTION study_operator.store_other_end(
    caller study_operator.caller, vals double precision[], pruned boolean, constraint_values jsonb, infeasible text, source text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    stored study_operator.results;
BEGIN
    SELECT r.* INTO stored FROM study_operator.results r WHERE r.trial_id = caller.trial_id AND NOT r.provisional;
    IF NOT FOUND OR (stored.vals, stored.pruned, stored.constraint_values, stored.infeasible)
                    IS NOT DISTINCT FROM (vals, pruned, coalesce(constraint_values, '{}'), infeasible) THEN
        RETURN;
    END IF;
    INSERT INTO study_operator.incidents (study_id, trial_id, source, kind, reason, message, last_log_line)
    VALUES (caller.study_id, caller.trial_id, left(source, 63) || '/end', 'Program', 'SeveralFinalValues',
            format('a second end, %s, came after the first one, %s, which counts: if several processes run the script, set RANK in'
                ' each of them, or let one of them report', study_operator.end_in_words(vals, pruned, infeasible),
                study_operator.end_in_words(stored.vals, stored.pruned, stored.infeasible)), '')
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM pg_notify(i.channel, caller.study_id::text) FROM study_operator.installation i;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION study_operator.end_in_words(vals double precision[], pruned boolean, infeasible text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN infeasible IS NOT NULL THEN 'infeasible' WHEN vals <> '{}' THEN array_to_string(vals, ', ')
                WHEN pruned THEN 'pruned' ELSE 'none' END
$$;

-- Stores final values that the sidecar has read from the program's output. The sidecar cannot know how the program ends, so the
-- result is provisional: it is valid once the trial's Job is Complete, unless the program itself calls finish(). May be called again
-- with other values. Without values it deletes the provisional result. Returns true when the operator had pruned the trial before.
CREATE OR REPLACE FUNCTION study_operator.store_candidate(
    caller study_operator.caller, vals double precision[], constraint_values jsonb)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF vals <> '{}' OR vals IS NULL THEN
        RETURN study_operator.store_result(caller, vals, false, constraint_values, NULL, true);
    ELSIF caller.state = 'RUNNING' THEN
        DELETE FROM study_operator.results r WHERE r.trial_id = caller.trial_id AND r.provisional;
    END IF;
    RETURN caller.state = 'PRUNED';
END $$;

-- Counts lines that could not be read as a report, and stores the latest of them with what is wrong with it. Counts one more, or sets
-- the count to `total` since the reading began. Does nothing for a trial that has ended.
CREATE OR REPLACE FUNCTION study_operator.store_bad_report(caller study_operator.caller, message text, total bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF message IS NULL OR total < 1 THEN
        PERFORM study_operator.refuse('SO003', 'a bad report needs a message and, if it has one, a total of at least 1');
    ELSIF caller.state <> 'RUNNING' THEN
        RETURN;
    END IF;
    INSERT INTO study_operator.bad_reports AS b (trial_id, study_id, count, last)
    VALUES (caller.trial_id, caller.study_id, coalesce(total, 1), left(message, 256))
    ON CONFLICT ON CONSTRAINT bad_reports_pkey DO UPDATE
    SET count = CASE WHEN total IS NULL THEN least(b.count, 9223372036854775806) + 1 ELSE greatest(b.count, total) END,
        last = excluded.last, reported_at = clock_timestamp();
    PERFORM pg_notify(i.channel, caller.study_id::text) FROM study_operator.installation i;
END $$;

-- Sets a user attribute of the trial, as Optuna's trial.set_user_attr does. Refuses names that the operator uses itself.
CREATE OR REPLACE FUNCTION study_operator.store_user_attr(caller study_operator.caller, name text, val jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before integer;
BEGIN
    IF name IS NULL OR name = '' OR length(name) > 512 OR name LIKE 'study_operator:%' THEN
        PERFORM study_operator.refuse('SO003',
            'an attribute''s name has 1 to 512 characters and does not begin with study_operator:');
    ELSIF val IS NULL OR octet_length(val::text) > 65536 THEN
        PERFORM study_operator.refuse('SO003', format('attribute %s must be JSON of at most 64 KiB', name));
    ELSIF caller.state <> 'RUNNING' THEN
        PERFORM study_operator.refuse('SO002', format('the trial is not running: it is %s', caller.state));
    ELSIF (SELECT count(*) FROM public.trial_user_attributes a
           WHERE a.trial_id = caller.trial_id AND a.key <> name) >= 100 THEN
        PERFORM study_operator.refuse('SO003', 'the trial has 100 attributes already');
    END IF;
    SELECT octet_length(a.key || a.value_json) INTO before FROM public.trial_user_attributes a
    WHERE a.trial_id = caller.trial_id AND a.key = name;
    PERFORM study_operator.take_bytes(caller.study_id, octet_length(name || val::text) - coalesce(before, 0));
    INSERT INTO public.trial_user_attributes AS a (trial_id, key, value_json)
    VALUES (caller.trial_id, name, val::text)
    ON CONFLICT ON CONSTRAINT trial_user_attributes_trial_id_key_key DO UPDATE SET value_json = excluded.value_json;
END $$;


-- Part 3. The functions that pods call.

-- Does what a message says. Returns whether the trial has been pruned and should stop. A message is one JSON object:
--     call, trial     what to do, and for which trial_id
--     job             the Job whose pod sends the message, see by_proof()
--     number          for candidate and set_user_attr: higher than in the trial's message before
-- and, depending on the call,
--     report          step, value
--     finish          values, pruned, constraints, infeasible
--     other_end       the same: what finish has refused, because another end is stored
--     candidate       values, constraints
--     bad_report      message, total
--     set_user_attr   name, and as `json` a text
--     should_stop     nothing more
-- A number that JSON does not have is a text: "NaN", "Infinity", "-Infinity". The proof is in hexadecimal digits and made for exactly
-- this text of the message. is_proven() says how it is made.
CREATE OR REPLACE FUNCTION study_operator.submit(message text, proof text)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller study_operator.caller;
    given jsonb;
    what text;
    trial_id integer;
    number bigint;
    step bigint;
    value double precision;
    vals double precision[];
    pruned boolean;
    total bigint;
    attribute jsonb;
BEGIN
    IF message IS NULL OR proof IS NULL OR octet_length(message) > 262144 THEN
        PERFORM study_operator.refuse('SO003', 'a message is a text of at most 256 KiB, with a proof');
    END IF;
    BEGIN
        given := message;
        what := given ->> 'call';
        trial_id := given ->> 'trial';
        number := given ->> 'number';
        step := given ->> 'step';
        value := given ->> 'value';
        total := given ->> 'total';
        pruned := given ->> 'pruned';
        attribute := given ->> 'json';
        IF jsonb_typeof(given -> 'values') = 'array' THEN
            vals := ARRAY(SELECT v::double precision FROM jsonb_array_elements_text(given -> 'values') v);
        END IF;
    EXCEPTION WHEN OTHERS THEN
        PERFORM study_operator.refuse('SO003', left('the message cannot be read: ' || SQLERRM, 200));
    END;
    caller := study_operator.by_proof(trial_id, given ->> 'job', message, proof);
    CASE what
        WHEN 'report' THEN
            RETURN study_operator.store_report(caller, step, value);
        WHEN 'should_stop' THEN
            RETURN study_operator.told_to_stop(caller, false);
        WHEN 'finish' THEN
            RETURN study_operator.store_result(
                caller, vals, pruned, given -> 'constraints', given ->> 'infeasible', false);
        WHEN 'other_end' THEN
            PERFORM study_operator.store_other_end(
                caller, vals, pruned, given -> 'constraints', given ->> 'infeasible', coalesce(given ->> 'job', ''));
        WHEN 'candidate' THEN
            PERFORM study_operator.come_after(trial_id, number);
            RETURN study_operator.store_candidate(caller, vals, given -> 'constraints');
        WHEN 'bad_report' THEN
            IF total IS NULL THEN
                PERFORM study_operator.refuse('SO003', 'a message about bad reports needs their total');
            END IF;
            PERFORM study_operator.store_bad_report(caller, given ->> 'message', total);
        WHEN 'set_user_attr' THEN
            PERFORM study_operator.come_after(trial_id, number);
            PERFORM study_operator.store_user_attr(caller, given ->> 'name', attribute);
        ELSE
            PERFORM study_operator.refuse('SO003', format('there is no call %s', left(what, 63)));
    END CASE;
    RETURN caller.state = 'PRUNED';
END $$;

-- The functions of version 0.1, for pods that an operator of that version has started, and for clients that connect to the database
-- without a pooler. Their key is in the connection's setting.
CREATE OR REPLACE FUNCTION study_operator.report(trial_id integer, step bigint, value double precision)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN study_operator.store_report(study_operator.by_setting(trial_id), step, value);
END $$;

DROP FUNCTION IF EXISTS study_operator.finish(integer, double precision[], boolean);  -- of schema 1

CREATE OR REPLACE FUNCTION study_operator.finish(
    trial_id integer, vals double precision[], pruned boolean DEFAULT false,
    constraint_values jsonb DEFAULT NULL, infeasible text DEFAULT NULL)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN study_operator.store_result(
        study_operator.by_setting(trial_id), vals, pruned, constraint_values, infeasible, false);
END $$;

CREATE OR REPLACE FUNCTION study_operator.candidate(
    trial_id integer, vals double precision[], constraint_values jsonb DEFAULT NULL)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN study_operator.store_candidate(study_operator.by_setting(trial_id), vals, constraint_values);
END $$;

CREATE OR REPLACE FUNCTION study_operator.bad_report(trial_id integer, message text, total bigint DEFAULT NULL)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM study_operator.store_bad_report(study_operator.by_setting(trial_id), message, total);
END $$;

CREATE OR REPLACE FUNCTION study_operator.set_user_attr(trial_id integer, name text, val jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM study_operator.store_user_attr(study_operator.by_setting(trial_id), name, val);
END $$;

CREATE OR REPLACE FUNCTION study_operator.should_stop(trial_id integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN study_operator.told_to_stop(study_operator.by_setting(trial_id), false);
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA study_operator FROM PUBLIC;
GRANT USAGE ON SCHEMA study_operator TO :"reporter";
GRANT EXECUTE ON FUNCTION
    study_operator.submit(text, text),
    study_operator.report(integer, bigint, double precision),
    study_operator.finish(integer, double precision[], boolean, jsonb, text),
    study_operator.candidate(integer, double precision[], jsonb),
    study_operator.bad_report(integer, text, bigint),
    study_operator.set_user_attr(integer, text, jsonb),
    study_operator.should_stop(integer)
TO :"reporter";
