-- One of everything a database can hold, for psql. sample_schema.py sets :prefix; roles are cluster-wide and carry it.
-- What pg_dump writes differently after one restore is not here but in sample_schema.UNSTABLE.
-- A policy has one role only: pg_dump lists several in the order of the cluster's own numbers, so a new cluster differs.
\set owner :prefix _owner
\set app :prefix _app
\set reader :prefix _reader
\set granter :prefix _granter
\set odd :prefix ' Odd "Röle" ''x'' \\ '
SELECT current_setting('server_version_num')::int >= 170000 AS pg17, current_setting('server_version_num')::int >= 180000 AS pg18 \gset
SET client_min_messages = error;
SET check_function_bodies = false;

-- Roles and the database itself --------------------------------------------------------------------------------------
SELECT format('CREATE ROLE %I', r) FROM unnest(ARRAY[:'owner', :'app', :'reader', :'granter', :'odd']) r
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) \gexec
ALTER ROLE :"owner" NOLOGIN CREATEROLE;
ALTER ROLE :"app" LOGIN PASSWORD 'p:a\ss''word' CONNECTION LIMIT 50 VALID UNTIL '2099-12-31 00:00:00+00';
ALTER ROLE :"reader" LOGIN NOINHERIT PASSWORD 'reader';
ALTER ROLE :"granter" NOLOGIN BYPASSRLS CREATEDB;
ALTER ROLE :"odd" LOGIN REPLICATION VALID UNTIL 'infinity';
COMMENT ON ROLE :"odd" IS E'a role\nwith "two" ''lines''';
GRANT :"reader" TO :"app" WITH ADMIN OPTION;
GRANT :"owner" TO :"granter";
SET ROLE :"app";
GRANT :"reader" TO :"odd";
RESET ROLE;
ALTER ROLE :"app" SET statement_timeout = '90s';
ALTER ROLE :"app" SET search_path = 'public', 'Odd', "$user";
ALTER ROLE :"odd" SET application_name = 'it''s "odd" \ ';
ALTER ROLE :"app" IN DATABASE :"DBNAME" SET work_mem = '7MB';
GRANT SET ON PARAMETER log_min_duration_statement TO :"app";
ALTER DATABASE :"DBNAME" SET search_path = "$user", 'public', 'app';
ALTER DATABASE :"DBNAME" SET timezone = 'Asia/Manila';
ALTER DATABASE :"DBNAME" SET obcms.setting = 'it''s, "custom"';
COMMENT ON DATABASE :"DBNAME" IS E'a database\nwith ''quotes''';
ALTER DATABASE :"DBNAME" CONNECTION LIMIT 77;
ALTER DATABASE :"DBNAME" OWNER TO :"owner";
REVOKE TEMPORARY ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO :"reader" WITH GRANT OPTION;
SET timezone = 'UTC';
SET search_path = public;

-- Schemas and default privileges -------------------------------------------------------------------------------------
CREATE SCHEMA app AUTHORIZATION :"owner";
CREATE SCHEMA ext;
CREATE SCHEMA "Odd ""Schéma"".
two";
COMMENT ON SCHEMA app IS E'it''s "app"\n-- and a second line; \\. \\connect nowhere';
COMMENT ON SCHEMA public IS 'the public schema, with a comment of its own';
GRANT USAGE, CREATE ON SCHEMA app TO :"app" WITH GRANT OPTION;
GRANT USAGE ON SCHEMA app, ext TO PUBLIC;
GRANT USAGE ON SCHEMA app TO :"granter";
GRANT CREATE ON SCHEMA public TO :"app";
GRANT USAGE ON SCHEMA "Odd ""Schéma"".
two" TO :"odd";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT SELECT ON TABLES TO :"reader";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA app GRANT USAGE ON SEQUENCES TO :"reader" WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE :"odd" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE :"odd" GRANT USAGE ON TYPES TO :"reader";
ALTER DEFAULT PRIVILEGES FOR ROLE :"app" GRANT USAGE ON SCHEMAS TO :"reader";
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC;

-- Extensions ---------------------------------------------------------------------------------------------------------
CREATE EXTENSION pg_trgm SCHEMA ext;
CREATE EXTENSION btree_gin SCHEMA ext;
CREATE EXTENSION btree_gist SCHEMA ext;
CREATE EXTENSION "uuid-ossp" SCHEMA ext;
CREATE EXTENSION pg_stat_statements SCHEMA ext;
CREATE EXTENSION hstore SCHEMA ext;
CREATE EXTENSION citext SCHEMA public;
CREATE EXTENSION postgres_fdw SCHEMA ext;
COMMENT ON EXTENSION hstore IS 'a comment in place of the extension''s own';
REVOKE EXECUTE ON FUNCTION ext.uuid_generate_v1() FROM PUBLIC;
GRANT SELECT ON ext.pg_stat_statements TO :"reader";

-- Types --------------------------------------------------------------------------------------------------------------
CREATE TYPE app.mood AS ENUM ('new', 'open', 'closed');
ALTER TYPE app.mood ADD VALUE 'first' BEFORE 'new';
ALTER TYPE app.mood ADD VALUE 'on ''hold''' AFTER 'open';
ALTER TYPE app.mood ADD VALUE 'last';
CREATE TYPE app."Pair of" AS ("First" integer, "sécond" text COLLATE "C", m app.mood);
CREATE TYPE app.pair AS (a integer, gone text, b text);
ALTER TYPE app.pair DROP ATTRIBUTE gone;
CREATE TYPE app.empty_composite AS ();
CREATE FUNCTION app.span_diff(float8, float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 - $2';
CREATE TYPE app.span AS RANGE (subtype = float8, subtype_diff = app.span_diff, multirange_type_name = app.spans);
CREATE TYPE app.shell;
CREATE TYPE app.raw;
CREATE FUNCTION app.raw_in(cstring) RETURNS app.raw LANGUAGE internal STRICT IMMUTABLE AS 'textin';
CREATE FUNCTION app.raw_out(app.raw) RETURNS cstring LANGUAGE internal STRICT IMMUTABLE AS 'textout';
CREATE TYPE app.raw (INPUT = app.raw_in, OUTPUT = app.raw_out, LIKE = text, DEFAULT = 'raw');
CREATE DOMAIN app.positive AS integer DEFAULT 1 NOT NULL CONSTRAINT above CHECK (VALUE > 0) CONSTRAINT below CHECK (VALUE < 1000000);
CREATE DOMAIN app.email AS public.citext CHECK (VALUE ~ '^[^@]+@[^@]+$'::public.citext);
CREATE DOMAIN app.positives AS app.positive[] CHECK (cardinality(VALUE) < 10);
COMMENT ON TYPE app.mood IS 'a mood';
COMMENT ON COLUMN app.pair.b IS 'second';
COMMENT ON DOMAIN app.positive IS 'a domain';
COMMENT ON CONSTRAINT above ON DOMAIN app.positive IS 'a domain''s constraint';
REVOKE USAGE ON TYPE app.mood FROM PUBLIC;
GRANT USAGE ON TYPE app.mood TO :"app";
GRANT USAGE ON DOMAIN app.positive TO :"odd" WITH GRANT OPTION;
ALTER TYPE app.mood OWNER TO :"owner";
ALTER DOMAIN app.email OWNER TO :"odd";

-- Collations and text search -----------------------------------------------------------------------------------------
CREATE COLLATION app.folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE COLLATION app.german (provider = libc, locale = 'de_DE.utf8');
CREATE COLLATION app."Cöpy" FROM "C";
COMMENT ON COLLATION app.folded IS 'case does not count';
CREATE TEXT SEARCH TEMPLATE app.template (INIT = dsimple_init, LEXIZE = dsimple_lexize);
CREATE TEXT SEARCH DICTIONARY app.dictionary (TEMPLATE = pg_catalog.simple, STOPWORDS = english, ACCEPT = false);
CREATE TEXT SEARCH PARSER app.parser (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype, HEADLINE = prsd_headline);
CREATE TEXT SEARCH CONFIGURATION app.search (PARSER = app.parser);
ALTER TEXT SEARCH CONFIGURATION app.search ADD MAPPING FOR asciiword, word WITH app.dictionary, english_stem;
COMMENT ON TEXT SEARCH CONFIGURATION app.search IS 'a search';
COMMENT ON TEXT SEARCH DICTIONARY app.dictionary IS 'a dictionary';

-- Functions, operators, casts ----------------------------------------------------------------------------------------
CREATE FUNCTION app.hostile() RETURNS text LANGUAGE plpgsql STABLE COST 17 AS $body$
BEGIN
    -- Text that a reader of dumps must not take for the dump's own:
    RETURN '
--
-- Name: fake; Type: TABLE; Schema: public; Owner: nobody
--

CREATE TABLE public.fake (id integer);
COPY public.fake (id) FROM stdin;
1
\.

SELECT pg_catalog.setval(''public.fake_seq'', 5, true);
\restrict abcdef
\unrestrict abcdef
\connect template1
--
-- PostgreSQL database dump complete
--

$$ $_$ $function$ ';
END
$body$;
CREATE FUNCTION app.new_style(a integer, b integer DEFAULT 1, VARIADIC rest integer[] DEFAULT '{}', OUT total integer, OUT words text) LANGUAGE sql PARALLEL SAFE LEAKPROOF
BEGIN ATOMIC SELECT a + b + cardinality(rest) AS total, 'it''s; done'::text AS words; END;
CREATE FUNCTION app."Fun ""ction"".
two"("A b" text DEFAULT E'it''s\n\\.') RETURNS TABLE ("x y" integer, z text) LANGUAGE sql ROWS 3 AS $$ SELECT 1, "A b" $$;
CREATE FUNCTION app.definer() RETURNS integer LANGUAGE sql SECURITY DEFINER SET search_path = app, pg_temp SET "timezone" = 'UTC' SET obcms.setting = 'a, b' AS $$ SELECT 1 $$;
CREATE FUNCTION app.same(integer, integer) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT RETURN $1 = $2;
CREATE FUNCTION app.differ(integer, integer) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT RETURN $1 <> $2;
CREATE FUNCTION app.reverse(integer, integer) RETURNS integer LANGUAGE sql IMMUTABLE STRICT AS 'SELECT btint4cmp($2, $1)';
CREATE FUNCTION app.row_number() RETURNS bigint LANGUAGE internal WINDOW AS 'window_row_number';
CREATE FUNCTION app.pair_text(app.pair) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1.a || '/' || $1.b $$;
CREATE FUNCTION app.mood_of(integer) RETURNS app.mood LANGUAGE sql IMMUTABLE AS $$ SELECT (enum_range(NULL::app.mood))[$1] $$;
CREATE FUNCTION app.overloaded() RETURNS integer LANGUAGE sql AS 'SELECT 0';
CREATE FUNCTION app.overloaded(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION app.overloaded(text, "char") RETURNS integer LANGUAGE sql AS 'SELECT 2';
CREATE PROCEDURE app.work(IN a integer, INOUT b text DEFAULT 'x') LANGUAGE plpgsql AS $$ BEGIN b := b || a; COMMIT; END $$;
CREATE AGGREGATE app.total(integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0', COMBINEFUNC = int4pl, MSFUNC = int4pl, MINVFUNC = int4mi, MSTYPE = integer, MINITCOND = '0', PARALLEL = SAFE);
CREATE AGGREGATE app.percentile(double precision ORDER BY anyelement) (SFUNC = ordered_set_transition, STYPE = internal, FINALFUNC = percentile_disc_final, FINALFUNC_EXTRA);
CREATE AGGREGATE app.rank_of(VARIADIC "any" ORDER BY VARIADIC "any") (SFUNC = ordered_set_transition_multi, STYPE = internal, FINALFUNC = rank_final, FINALFUNC_EXTRA, HYPOTHETICAL);
CREATE OPERATOR app.=== (FUNCTION = app.same, LEFTARG = integer, RIGHTARG = integer, COMMUTATOR = OPERATOR(app.===), NEGATOR = OPERATOR(app.!==), RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES);
CREATE OPERATOR app.!== (FUNCTION = app.differ, LEFTARG = integer, RIGHTARG = integer, COMMUTATOR = OPERATOR(app.!==), NEGATOR = OPERATOR(app.===), RESTRICT = neqsel);
CREATE OPERATOR app.@@@ (FUNCTION = abs, RIGHTARG = integer);
CREATE OPERATOR FAMILY app.family USING btree;
CREATE OPERATOR CLASS app.downward FOR TYPE integer USING btree FAMILY app.family AS OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <, FUNCTION 1 app.reverse(integer, integer);
ALTER OPERATOR FAMILY app.family USING btree ADD OPERATOR 3 =(integer, bigint), FUNCTION 1 (integer, bigint) btint48cmp(integer, bigint);
CREATE CAST (app.pair AS text) WITH FUNCTION app.pair_text(app.pair) AS ASSIGNMENT;
CREATE CAST (integer AS app.mood) WITH FUNCTION app.mood_of(integer);
CREATE CAST (app.pair AS jsonb) WITH INOUT;
CREATE CAST (app.raw AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CONVERSION app.conversion FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE ACCESS METHOD app_heap TYPE TABLE HANDLER heap_tableam_handler;
COMMENT ON FUNCTION app.new_style(integer, integer, integer[]) IS 'new "style"';
COMMENT ON PROCEDURE app.work(integer, text) IS 'work';
COMMENT ON AGGREGATE app.total(integer) IS 'total';
COMMENT ON OPERATOR app.===(integer, integer) IS 'same';
COMMENT ON OPERATOR CLASS app.downward USING btree IS 'downward';
COMMENT ON OPERATOR FAMILY app.family USING btree IS 'family';
COMMENT ON CAST (app.pair AS text) IS 'a cast';
COMMENT ON CONVERSION app.conversion IS 'a conversion';
COMMENT ON ACCESS METHOD app_heap IS 'the heap again';
COMMENT ON LANGUAGE plpgsql IS 'a comment of our own';
REVOKE EXECUTE ON FUNCTION app.definer() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.definer() TO :"app" WITH GRANT OPTION;
GRANT EXECUTE ON PROCEDURE app.work(integer, text) TO :"odd";
ALTER FUNCTION app.definer() OWNER TO :"owner";
ALTER AGGREGATE app.total(integer) OWNER TO :"owner";
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
GRANT USAGE ON LANGUAGE plpgsql TO :"owner", :"app";

-- Large objects ------------------------------------------------------------------------------------------------------
SELECT lo_from_bytea(4100001, '');
SELECT lo_from_bytea(4100002, decode(repeat('00ff0a5c2e27', 524288), 'hex'));
SELECT lo_from_bytea(4100003, 'small'), lo_from_bytea(4100004, E'\\\\.\nCOPY x FROM stdin;\n');
COMMENT ON LARGE OBJECT 4100002 IS E'three megabytes\n\\.';
ALTER LARGE OBJECT 4100002 OWNER TO :"owner";
ALTER LARGE OBJECT 4100003 OWNER TO :"odd";
GRANT SELECT ON LARGE OBJECT 4100002 TO PUBLIC;
GRANT SELECT, UPDATE ON LARGE OBJECT 4100002 TO :"app" WITH GRANT OPTION;
GRANT SELECT ON LARGE OBJECT 4100001 TO :"reader";

-- Sequences ----------------------------------------------------------------------------------------------------------
CREATE SEQUENCE app.lonely AS smallint INCREMENT BY -3 MINVALUE -300 MAXVALUE 30 START 15 CACHE 7 CYCLE;
CREATE SEQUENCE app.used START 10; SELECT nextval('app.used');
CREATE SEQUENCE app.untouched START 42;
CREATE UNLOGGED SEQUENCE app.unlogged_sequence; SELECT setval('app.unlogged_sequence', 99);
CREATE SEQUENCE app."Seq ""x"".
é"; SELECT setval('app."Seq ""x"".
é"', 9223372036854775806, false);
COMMENT ON SEQUENCE app.lonely IS 'owned by nothing';
GRANT USAGE, UPDATE ON SEQUENCE app.lonely TO :"app";
ALTER SEQUENCE app.used OWNER TO :"owner";

-- Tables: the ordinary ones, with thousands of rows ------------------------------------------------------------------
CREATE TABLE public.app_person (
    id bigint GENERATED BY DEFAULT AS IDENTITY (START WITH 100 INCREMENT BY 5) PRIMARY KEY,
    name text NOT NULL COLLATE app.german,
    nick text COLLATE app.folded,
    email app.email,
    extra ext.hstore DEFAULT ''::ext.hstore,
    manager bigint REFERENCES public.app_person,
    favourite bigint,
    born date CHECK (born > '1800-01-01'::date)
);
CREATE TABLE public.app_case (
    id serial PRIMARY KEY,
    person bigint NOT NULL CONSTRAINT "by person" REFERENCES public.app_person ON DELETE CASCADE ON UPDATE SET NULL DEFERRABLE INITIALLY DEFERRED,
    title text NOT NULL DEFAULT 'un''titled',
    gone text,
    state app.mood DEFAULT 'new',
    amount numeric(12,2) DEFAULT 0.00 CHECK (amount >= 0) NO INHERIT,
    made timestamptz NOT NULL DEFAULT '2024-01-01 00:00:00+08',
    body text,
    words tsvector GENERATED ALWAYS AS (to_tsvector('english', coalesce(title, ''))) STORED,
    document oid
);
ALTER TABLE public.app_case DROP COLUMN gone;
INSERT INTO public.app_person (name, nick, email, extra, born)
SELECT 'Person ' || i, 'NICK' || i, 'p' || i || '@example.org', ext.hstore('k' || i, NULL), date '1950-01-01' + i FROM generate_series(1, 1000) i;
UPDATE public.app_person SET manager = 100, favourite = 105 WHERE id % 3 = 0;
INSERT INTO public.app_case (person, title, state, amount, made, body, document)
SELECT 100 + 5 * (i % 1000), 'Case ' || i, (enum_range(NULL::app.mood))[1 + i % 6], i / 7.0, timestamptz '2024-02-29 12:00+00' + i * interval '1 hour 1 microsecond',
       CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE repeat('text ' || i, i % 40) END, CASE WHEN i % 100 = 0 THEN 4100003 END FROM generate_series(1, 5000) i;
DELETE FROM public.app_case WHERE id % 50 = 7;
UPDATE public.app_case SET title = title || ' again' WHERE id % 40 = 3;
ALTER TABLE public.app_case ADD COLUMN added text NOT NULL DEFAULT 'fast';
ALTER TABLE public.app_case ADD COLUMN added_at timestamptz DEFAULT '2025-05-05 05:05:05.000005+05';
ALTER TABLE public.app_person ADD CONSTRAINT favourite_case FOREIGN KEY (favourite) REFERENCES public.app_case (id) NOT VALID;
ALTER TABLE public.app_person ADD CONSTRAINT unchecked CHECK (name <> 'nobody') NOT VALID;
ALTER TABLE public.app_person ADD CONSTRAINT nick_once UNIQUE NULLS NOT DISTINCT (nick) DEFERRABLE INITIALLY IMMEDIATE;
ALTER TABLE public.app_case ADD CONSTRAINT once UNIQUE (person, title) INCLUDE (state) WITH (fillfactor = 80);
ALTER TABLE public.app_case ALTER COLUMN title SET STATISTICS 500, ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN body SET COMPRESSION pglz, ALTER COLUMN person SET (n_distinct = -0.5);
ALTER TABLE public.app_case SET (autovacuum_enabled = false, toast.autovacuum_vacuum_threshold = 99);
ALTER TABLE public.app_case OWNER TO :"owner";
CREATE INDEX case_partial ON public.app_case (made DESC NULLS LAST) WHERE state = 'open'::app.mood;
CREATE INDEX case_expression ON public.app_case (lower(title) text_pattern_ops, (amount * 2)) INCLUDE (added);
CREATE INDEX "case ""gin"".é" ON public.app_case USING gin (title ext.gin_trgm_ops, words, amount) WITH (fastupdate = off);
CREATE INDEX case_gist ON public.app_case USING gist (title ext.gist_trgm_ops (siglen = 32), made);
CREATE INDEX case_brin ON public.app_case USING brin (made timestamptz_minmax_multi_ops (values_per_range = 16)) WITH (pages_per_range = 8, autosummarize = on);
CREATE INDEX case_hash ON public.app_case USING hash (person);
CREATE INDEX case_downward ON public.app_case (id app.downward);
CREATE UNIQUE INDEX case_identity ON public.app_case (id, person);
ALTER TABLE public.app_case CLUSTER ON once;
ALTER TABLE public.app_case REPLICA IDENTITY USING INDEX case_identity;
ALTER TABLE public.app_person REPLICA IDENTITY FULL;
ALTER INDEX case_expression ALTER COLUMN 2 SET STATISTICS 300;
CREATE STATISTICS app.together (ndistinct, dependencies, mcv) ON person, state, (lower(title)) FROM public.app_case;
ALTER STATISTICS app.together SET STATISTICS 77;
COMMENT ON STATISTICS app.together IS 'together';
COMMENT ON TABLE public.app_case IS E'a table: "it''s"\n\n--\n-- Name: fake; Type: TABLE DATA; Schema: public; Owner: x\n--\n\\.\n$$';
COMMENT ON COLUMN public.app_case.title IS E'tab\there';
COMMENT ON CONSTRAINT once ON public.app_case IS 'once only';
COMMENT ON INDEX public.case_hash IS 'an index';
GRANT SELECT, INSERT ON public.app_case TO :"app" WITH GRANT OPTION;
GRANT SELECT ON public.app_case TO PUBLIC;
GRANT UPDATE (title, body), SELECT (id) ON public.app_case TO :"odd";
SET SESSION AUTHORIZATION :"app";
GRANT SELECT ON public.app_case TO :"granter" WITH GRANT OPTION;
SET SESSION AUTHORIZATION :"granter";
GRANT SELECT ON public.app_case TO :"odd";
RESET SESSION AUTHORIZATION;
GRANT USAGE ON SEQUENCE public.app_case_id_seq TO :"app";
REVOKE DELETE, TRUNCATE ON public.app_person FROM CURRENT_USER;
\if :pg17
GRANT MAINTAIN ON public.app_person TO :"reader";
\endif

-- Tables: every kind of value ----------------------------------------------------------------------------------------
CREATE TABLE app.text_values (id integer GENERATED ALWAYS AS IDENTITY (MAXVALUE 5000 CYCLE), t text, c character(5), v character varying(40), b bytea, n name, "Chår" "char");
INSERT INTO app.text_values (t) VALUES (NULL), (''), ('\.'), (E'\\.\n'), (E'before\n\\.\nafter'), (E'\\N'), ('NULL'), (E'\t'), (E'\n'), (E'\r'), (E'\r\n'), (E'a\tb\\tc\\\\d'),
    (E'\b\f\v\x01\x1f\x7f'), ('"quoted", ''single'''), ('naïve – 漢字 – 𝄞 – e' || U&'\0301'), (U&'\202Egnp.exe\FEFF'), (repeat('x', 100000)), (' leading'), ('trailing '),
    (E'--\n-- PostgreSQL database dump complete\n--\n\n'), (E'--\n-- Name: t; Type: TABLE DATA; Schema: public; Owner: x\n--\n\nCOPY public.app_case (id) FROM stdin;\n1\n\\.\n'),
    (E'\\restrict abc\n\\unrestrict abc'), (E'\\connect template1'), ('SELECT pg_catalog.lo_unlink(4100002);'), ('SET row_security = off;'), (E'\\\\'), (E'\\x41'), (';'), ('$$');
INSERT INTO app.text_values (c, v, b, n, "Chår") VALUES ('a  ', 'v  ', '', 'name', ''), ('', '', '\x00', '', 'x'), (' ', E'\\.', '\x5c2e0a0d09275c5c00ff', 'x', '\'), (NULL, NULL, decode(repeat('5c', 70000), 'hex'), NULL, NULL);
CREATE TABLE app.number_values (r real, d double precision, n numeric, p numeric(8,-2), m money, i8 bigint, bits bit(5), vbits bit varying);
INSERT INTO app.number_values (r, d, n) VALUES ('NaN', 'NaN', 'NaN'), ('Infinity', 'Infinity', 'Infinity'), ('-Infinity', '-Infinity', '-Infinity'), ('-0', '-0', '-0.000'),
    (0.1, 0.1, 0.1), (1.1754944e-38, 2.2250738585072014e-308, 1e-300), (3.4028235e38, 1.7976931348623157e308, 1e300), (1e-45, 5e-324, 1.50), (16777217, 0.30000000000000004, 12345678901234567890.123456789000);
INSERT INTO app.number_values (p, m, i8, bits, vbits) VALUES (123456, '1234.5', -9223372036854775808, B'00101', B''), (-99, '-0.01', 9223372036854775807, B'11111', B'1');
CREATE TABLE app.time_values (d date, t time, tz timetz, ts timestamp, tstz timestamptz, i interval);
INSERT INTO app.time_values VALUES ('infinity', '24:00', '24:00+15:59', 'infinity', 'infinity', '178000000 years'), ('-infinity', '00:00', '00:00-15:59', '-infinity', '-infinity', '-178000000 years'),
    ('4713-11-24 BC', '23:59:59.999999', '12:00+05:30', '4713-11-24 00:00:00 BC', '4713-11-24 00:00:00+00 BC', '2 mons -5 days 00:00:00.000001'),
    ('5874897-12-31', NULL, NULL, '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', '-1 year +1 mon -1 day +2562047788:00:54.775807'), ('0001-01-01', NULL, NULL, '1880-01-01', '1880-01-01 00:00+00', '0');
\if :pg17
INSERT INTO app.time_values (i) VALUES ('infinity'), ('-infinity');
\endif
CREATE TABLE app.other_values (a integer[], aa text[], j json, b jsonb, x xml, u uuid, e app.mood[], cp app."Pair of", pr app.pair[], r int4range, mr nummultirange, sp app.span, sps app.spans,
    tr tstzrange, po app.positives, ip inet, ci cidr, mac macaddr8, pt point, poly polygon, lsn pg_lsn, reg regclass, ty regtype, hs ext.hstore, ct public.citext, raw app.raw, ts tsvector, tq tsquery, jp jsonpath, tid tid, xid8 xid8);
INSERT INTO app.other_values (a, aa, j, b, x, u) VALUES
    ('{}', '{}', '{"a" : 1, "a":2,   "u": "\u00e9\\ \"", "n": 1.0e5}', '{"b": [1, 2.50, null, true], "a": "\u00e9\t\\", "": {}}', '<a b="1">é<!-- c --></a>', '00000000-0000-0000-0000-000000000000'),
    ('[-2:0]={1,NULL,3}', '{{"a","b"},{NULL,"NULL"}}', 'null', 'null', 'just text <b/>', 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
    ('[5:6][0:1][2:2]={{{1},{2}},{{3},{4}}}', E'{"","\\\\"," x ","a,b","{}","\\"",\\\\.}', '"\ud834\udd1e \\."', '1e400', NULL, NULL), (NULL, NULL, '[]', '"\\."', NULL, NULL);
INSERT INTO app.other_values (e, cp, pr, r, mr, sp, sps, tr, po, ip, ci, mac) VALUES
    ('{new,"on ''hold''"}', ROW(1, E'a "b" \\ , ()\n', 'last'), ARRAY[ROW(1, ''), ROW(NULL, NULL)]::app.pair[], 'empty', '{}', '[1.5,2.5)', '{[1,2),(3,4]}', '["2024-01-01 00:00+00",)', '{1,2}', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03:04:05'),
    ('{}', NULL, '{}', '(,5)', '{(,1),[2,)}', '(,)', '{}', '[-infinity,infinity]', NULL, '::1', 'fe80::/10', NULL);
INSERT INTO app.other_values (pt, poly, lsn, reg, ty, hs, ct, raw, ts, tq, jp, tid, xid8) VALUES ('(0.1,NaN)', '((0,0),(1e-300,1),(Infinity,0))', 'FF/FF', 'public.app_case', 'app."Pair of"[]', '"a b"=>"\"x\\", n=>NULL', 'CaseD', E'r\\w', '''it''''s'':1A,2B word:3', 'a & (b | !c) <-> d:*A', '$.a[*] ? (@ > 1)', '(1,2)', '9999999999');
CREATE TABLE app.nothing ();
INSERT INTO app.nothing SELECT FROM generate_series(1, 7);
CREATE TABLE app.all_dropped (a integer, b text);
INSERT INTO app.all_dropped SELECT i FROM generate_series(1, 3) i;
ALTER TABLE app.all_dropped DROP COLUMN a, DROP COLUMN b;
CREATE TABLE app.empty_table (a integer);
CREATE UNLOGGED TABLE app.unlogged_table (id integer PRIMARY KEY, t text);
INSERT INTO app.unlogged_table SELECT i, 'u' || i FROM generate_series(1, 300) i;
CREATE TABLE app.pg_temp_1 (id integer) USING app_heap WITH (fillfactor = 50);
INSERT INTO app.pg_temp_1 VALUES (1);
CREATE TABLE app.typed OF app."Pair of" ("First" WITH OPTIONS PRIMARY KEY DEFAULT 7);
INSERT INTO app.typed VALUES (1, 'one', 'new'), (2, NULL, NULL);
CREATE TABLE app.generated (a integer, b integer GENERATED ALWAYS AS (a * 2) STORED, c text DEFAULT CURRENT_USER, d timestamptz DEFAULT now(), e integer DEFAULT nextval('app.lonely'));
INSERT INTO app.generated VALUES (1, DEFAULT, 'x', '2024-01-01 00:00+00', DEFAULT), (2, DEFAULT, 'y', NULL, 5);
CREATE TABLE app."Table ""x"".
é" ("Col ""x"".
é" integer PRIMARY KEY, "select" text, "a b" text, "\.\" text, "--" text, "$$" text);
INSERT INTO app."Table ""x"".
é" SELECT i, E'\t', '', '\.', '--', NULL FROM generate_series(1, 11) i;
ALTER TABLE app."Table ""x"".
é" ADD CONSTRAINT "check ""x"".
é" CHECK ("select" <> E'it''s\n\\.');
COMMENT ON COLUMN app."Table ""x"".
é"."--" IS '--';
CREATE TABLE "Odd ""Schéma"".
two"."TABLE" ("user" serial, "order" integer REFERENCES app."Table ""x"".
é");
INSERT INTO "Odd ""Schéma"".
two"."TABLE" ("order") SELECT 1 + i % 11 FROM generate_series(1, 23) i;
ALTER TABLE "Odd ""Schéma"".
two"."TABLE" OWNER TO :"odd";
CREATE TABLE app."left" (id integer PRIMARY KEY, other integer);
CREATE TABLE app."right" (id integer PRIMARY KEY, other integer REFERENCES app."left" ON DELETE SET NULL (other));
ALTER TABLE app."left" ADD CONSTRAINT circular FOREIGN KEY (other) REFERENCES app."right" MATCH FULL DEFERRABLE;
BEGIN; SET CONSTRAINTS ALL DEFERRED;
INSERT INTO app."left" VALUES (1, 1), (2, NULL); INSERT INTO app."right" VALUES (1, 1), (2, 2);
COMMIT;
CREATE TABLE app.booking (room integer, during tsrange, active boolean, CONSTRAINT no_overlap EXCLUDE USING gist (room WITH =, during WITH &&) WHERE (active) DEFERRABLE);
INSERT INTO app.booking VALUES (1, '[2024-01-01,2024-01-02)', true), (1, '[2024-01-01,2024-01-03)', false);

-- Inheritance and partitions -----------------------------------------------------------------------------------------
CREATE TABLE app.parent (id integer DEFAULT 1, t text DEFAULT 'parent', CONSTRAINT positive CHECK (id > 0));
CREATE TABLE app.child (own integer, t text DEFAULT 'child') INHERITS (app.parent);
CREATE TABLE app.child_of_two (u text) INHERITS (app.child, app.nothing);
ALTER TABLE app.child ALTER COLUMN id SET DEFAULT 2, ALTER COLUMN id SET NOT NULL;
ALTER TABLE app.child_of_two ALTER COLUMN id DROP DEFAULT;
INSERT INTO app.parent VALUES (1, 'p'); INSERT INTO app.child (own) VALUES (1), (2); INSERT INTO app.child_of_two (id, u) VALUES (9, 'u');
CREATE TABLE app.log (id bigint NOT NULL, at date NOT NULL, kind text NOT NULL, gone integer, v integer DEFAULT 5) PARTITION BY RANGE (at);
ALTER TABLE app.log DROP COLUMN gone;
CREATE TABLE app.log_2023 PARTITION OF app.log (v DEFAULT 6, CONSTRAINT small CHECK (v < 10000)) FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
CREATE TABLE app.log_2024 (kind text NOT NULL, v integer, at date NOT NULL, id bigint NOT NULL);
ALTER TABLE app.log ATTACH PARTITION app.log_2024 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE app.log_later PARTITION OF app.log FOR VALUES FROM ('2025-01-01') TO (MAXVALUE) PARTITION BY LIST (kind);
CREATE TABLE app.log_later_a PARTITION OF app.log_later FOR VALUES IN ('a', E'it''s\\');
CREATE TABLE app.log_later_default PARTITION OF app.log_later DEFAULT;
ALTER TABLE app.log ADD PRIMARY KEY (id, at, kind);
CREATE INDEX log_kind ON ONLY app.log (kind);
CREATE INDEX log_2024_kind ON app.log_2024 (kind);
ALTER INDEX app.log_kind ATTACH PARTITION app.log_2024_kind;
CREATE INDEX log_v ON app.log (v) WHERE v > 3;
INSERT INTO app.log (id, at, kind, v) SELECT i, date '2023-01-01' + i % 1500, (ARRAY['a', 'b', 'c'])[1 + i % 3], i FROM generate_series(1, 3000) i WHERE i % 1500 > 365 OR i < 1500;
CREATE TABLE app.hashed (k integer, v text) PARTITION BY HASH (k);
CREATE TABLE app.hashed_0 PARTITION OF app.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.hashed_1 PARTITION OF app.hashed FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE app.hashed_3 PARTITION OF app.hashed FOR VALUES WITH (MODULUS 4, REMAINDER 3);
INSERT INTO app.hashed SELECT i, 'h' || i FROM generate_series(1, 1000) i;
CREATE TABLE app.refers (id bigint, at date, kind text, FOREIGN KEY (id, at, kind) REFERENCES app.log ON DELETE CASCADE);
INSERT INTO app.refers SELECT id, at, kind FROM app.log LIMIT 10;
\if :pg17
CREATE TABLE app.counted (id bigint GENERATED ALWAYS AS IDENTITY, at integer) PARTITION BY RANGE (at);
CREATE TABLE app.counted_1 PARTITION OF app.counted FOR VALUES FROM (0) TO (100);
INSERT INTO app.counted (at) SELECT i FROM generate_series(1, 50) i;
\endif
\if :pg18
CREATE TABLE app.eighteen (a integer CONSTRAINT "a must" NOT NULL, b integer GENERATED ALWAYS AS (a * 3) VIRTUAL, c text CONSTRAINT "c must" NOT NULL NO INHERIT, d integer,
    CONSTRAINT unenforced CHECK (a > 5) NOT ENFORCED, CONSTRAINT far FOREIGN KEY (a) REFERENCES app."left" NOT ENFORCED);
INSERT INTO app.eighteen (a, c) SELECT i, 'c' FROM generate_series(1, 20) i;
ALTER TABLE app.eighteen ADD CONSTRAINT "d later" NOT NULL d NOT VALID;
COMMENT ON CONSTRAINT "a must" ON app.eighteen IS 'a must';
CREATE TABLE app.temporal (id integer, at daterange, PRIMARY KEY (id, at WITHOUT OVERLAPS));
CREATE TABLE app.temporal_child (id integer, at daterange, FOREIGN KEY (id, PERIOD at) REFERENCES app.temporal (id, PERIOD at));
INSERT INTO app.temporal VALUES (1, '[2024-01-01,2025-01-01)'); INSERT INTO app.temporal_child VALUES (1, '[2024-02-01,2024-03-01)');
\endif

-- Views, rules, triggers, policies -----------------------------------------------------------------------------------
CREATE VIEW public.open_cases WITH (security_barrier) AS SELECT id, title, state, person FROM public.app_case WHERE state = 'open'::app.mood WITH CASCADED CHECK OPTION;
CREATE VIEW app.invoker WITH (security_invoker = true) AS SELECT c.*, p.name AS "Näme" FROM public.app_case c JOIN public.app_person p ON p.id = c.person;
CREATE RECURSIVE VIEW app.tree (id, depth) AS SELECT id, 0 FROM public.app_person WHERE manager IS NULL UNION ALL SELECT p.id, depth + 1 FROM public.app_person p JOIN tree t ON p.manager = t.id AND depth < 3;
CREATE VIEW public.grouped AS SELECT id, title, count(*) OVER (PARTITION BY person ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM public.app_case GROUP BY id;
CREATE VIEW app."View ""x"".
é" AS SELECT E'it''s\n\\.\n--\n' AS "Col ""x"".
é", CASE WHEN true THEN 1 END AS "case", ARRAY[1, 2] AS a, interval '1 day' AS i, '{"a": 1}'::jsonb -> 'a' AS j;
CREATE VIEW public.cyclic AS SELECT 1 AS a; CREATE FUNCTION app.cyclic_user() RETURNS public.cyclic LANGUAGE sql AS 'SELECT 1';
CREATE OR REPLACE VIEW public.cyclic AS SELECT (app.cyclic_user()).a + 1 AS a;
ALTER VIEW public.open_cases ALTER COLUMN title SET DEFAULT 'from the view';
COMMENT ON VIEW public.open_cases IS 'a view'; COMMENT ON COLUMN public.open_cases.title IS 'its column';
GRANT SELECT ON public.open_cases TO :"reader"; GRANT INSERT (title) ON public.open_cases TO :"app";
CREATE MATERIALIZED VIEW app.summary WITH (fillfactor = 90) AS SELECT state, count(*) AS n, sum(amount) AS total FROM public.app_case GROUP BY state;
CREATE UNIQUE INDEX summary_state ON app.summary (state);
CREATE MATERIALIZED VIEW app.unpopulated AS SELECT * FROM app.summary WITH NO DATA;
CREATE INDEX unpopulated_n ON app.unpopulated (n);
CREATE MATERIALIZED VIEW app.on_top AS SELECT sum(n) AS n FROM app.summary;
COMMENT ON MATERIALIZED VIEW app.summary IS 'counted'; CREATE MATERIALIZED VIEW app.owned AS SELECT 1 AS a; ALTER MATERIALIZED VIEW app.owned OWNER TO :"owner";
GRANT USAGE ON TYPE app.mood TO PUBLIC;
CREATE RULE to_base AS ON INSERT TO public.open_cases DO INSTEAD INSERT INTO public.app_case (title, person, state) VALUES (new.title, new.person, 'open') RETURNING id, title, state, person;
CREATE RULE several AS ON UPDATE TO app.invoker WHERE old.id > 5 DO INSTEAD (UPDATE public.app_case SET title = new.title WHERE id = old.id; DELETE FROM app.empty_table);
CREATE RULE never AS ON DELETE TO app.empty_table DO INSTEAD NOTHING;
CREATE RULE also AS ON INSERT TO app.empty_table DO ALSO NOTIFY filled;
ALTER TABLE app.empty_table DISABLE RULE also;
COMMENT ON RULE never ON app.empty_table IS 'never';
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF TG_LEVEL = 'STATEMENT' OR TG_OP = 'DELETE' THEN RETURN NULL; END IF; RETURN new; END $$;
CREATE FUNCTION app.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a restore must not fire this trigger'; END $$;
CREATE TRIGGER before_row BEFORE INSERT OR UPDATE OF title, body ON public.app_case FOR EACH ROW WHEN (new.title <> 'it''s') EXECUTE FUNCTION app.touch('a', 'it''s', '\.');
CREATE TRIGGER after_statement AFTER UPDATE ON public.app_case REFERENCING OLD TABLE AS was NEW TABLE AS "is" FOR EACH STATEMENT EXECUTE FUNCTION app.touch();
CREATE TRIGGER "disabled ""one""" BEFORE INSERT ON public.app_case FOR EACH ROW EXECUTE FUNCTION app.refuse();
CREATE TRIGGER always_one AFTER TRUNCATE ON public.app_case EXECUTE FUNCTION app.touch();
CREATE TRIGGER replica_one BEFORE INSERT ON public.app_case FOR EACH ROW EXECUTE FUNCTION app.refuse();
CREATE TRIGGER insert_refused BEFORE INSERT ON app.booking FOR EACH ROW EXECUTE FUNCTION app.refuse();
CREATE TRIGGER on_view INSTEAD OF INSERT ON public.grouped FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE CONSTRAINT TRIGGER deferred_one AFTER INSERT ON public.app_person FROM public.app_case DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE TRIGGER partitioned_one AFTER INSERT ON app.log FOR EACH ROW EXECUTE FUNCTION app.touch();
ALTER TABLE app.log_2024 DISABLE TRIGGER partitioned_one;
ALTER TABLE public.app_case DISABLE TRIGGER "disabled ""one""", ENABLE ALWAYS TRIGGER always_one, ENABLE REPLICA TRIGGER replica_one;
COMMENT ON TRIGGER before_row ON public.app_case IS 'before';
ALTER TABLE public.app_case ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE public.app_person ENABLE ROW LEVEL SECURITY;
CREATE POLICY "own ""cases""" ON public.app_case AS RESTRICTIVE FOR UPDATE TO :"odd" USING (title <> 'it''s') WITH CHECK (person IN (SELECT p.id FROM public.app_person p WHERE p.name = CURRENT_USER));
CREATE POLICY all_of_them ON public.app_person USING (true);
CREATE POLICY without_security ON app.empty_table FOR SELECT TO :"reader" USING (a > 0);
COMMENT ON POLICY all_of_them ON public.app_person IS 'all';
CREATE FUNCTION app.merging() RETURNS void LANGUAGE sql BEGIN ATOMIC
MERGE INTO app.unlogged_table t USING (VALUES (1, 'x')) s(id, v) ON t.id = s.id WHEN MATCHED AND t.t <> s.v THEN UPDATE SET t = s.v WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, t) VALUES (s.id, s.v);
END;

-- Foreign data, publications, event triggers -------------------------------------------------------------------------
CREATE FOREIGN DATA WRAPPER wrapper OPTIONS (debug 'it''s "true"');
CREATE SERVER "far ""away""" TYPE 't' VERSION '1''2' FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'db.invalid');
CREATE USER MAPPING FOR :"app" SERVER "far ""away""" OPTIONS (user 'it''s', password 'p\a''ss');
CREATE USER MAPPING FOR PUBLIC SERVER "far ""away""";
CREATE FOREIGN TABLE app.foreign_table (id integer OPTIONS (column_name 'Id') NOT NULL, t text COLLATE "C", CONSTRAINT positive CHECK (id > 0)) SERVER "far ""away""" OPTIONS (table_name 'x''y');
CREATE TABLE app.spread (kind text) PARTITION BY LIST (kind);
CREATE FOREIGN TABLE app.spread_far PARTITION OF app.spread FOR VALUES IN ('far') SERVER "far ""away""";
COMMENT ON SERVER "far ""away""" IS 'far'; COMMENT ON FOREIGN TABLE app.foreign_table IS 'foreign'; COMMENT ON FOREIGN DATA WRAPPER wrapper IS 'wraps';
GRANT USAGE ON FOREIGN SERVER "far ""away""" TO :"app" WITH GRANT OPTION;
GRANT USAGE ON FOREIGN DATA WRAPPER wrapper TO :"odd";
ALTER SERVER "far ""away""" OWNER TO :"granter";
CREATE PUBLICATION everything FOR ALL TABLES WITH (publish = 'insert');
CREATE PUBLICATION chosen FOR TABLE public.app_person (id, name), app.text_values WHERE (id > 5), ONLY app.parent WITH (publish = 'insert');
CREATE PUBLICATION "one ""schema""" FOR TABLES IN SCHEMA "Odd ""Schéma"".
two" WITH (publish = 'insert,truncate', publish_via_partition_root = true);
CREATE PUBLICATION no_tables;
COMMENT ON PUBLICATION chosen IS 'chosen'; 
CREATE FUNCTION app.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF current_setting('obcms.frozen', true) = 'yes' THEN RAISE EXCEPTION 'frozen: %', tg_tag; END IF; END $$;
CREATE FUNCTION app.on_ddl_refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a restore must not fire this event trigger: %', tg_tag; END $$;
CREATE EVENT TRIGGER disabled_one ON ddl_command_end EXECUTE FUNCTION app.on_ddl_refuse();
ALTER EVENT TRIGGER disabled_one DISABLE;
CREATE EVENT TRIGGER "en""abled" ON ddl_command_start WHEN TAG IN ('CREATE TABLE', 'DROP TABLE') EXECUTE FUNCTION app.on_ddl_refuse();
CREATE EVENT TRIGGER replica_drop ON sql_drop EXECUTE FUNCTION app.on_ddl();
ALTER EVENT TRIGGER replica_drop ENABLE REPLICA;
COMMENT ON EVENT TRIGGER disabled_one IS 'disabled';
\if :pg17
CREATE FUNCTION app.on_login() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE EVENT TRIGGER on_login ON login EXECUTE FUNCTION app.on_login();
\endif
