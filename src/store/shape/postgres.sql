-- The parts of our tables by the catalog, since the information schema hides what the role has no right to. Names are resolved as those
-- of statements are. $1: the names of our tables.
WITH ours AS (SELECT name, to_regclass(name)::OID AS id FROM unnest($1::TEXT[]) AS listed (name))
SELECT o.name AS of_table, 'table' AS kind, o.name AS name,
    CASE c.relpersistence WHEN 'p' THEN '' WHEN 'u' THEN 'UNLOGGED ' ELSE 'TEMPORARY ' END
    || CASE WHEN c.relkind IN ('r', 'p') THEN 'TABLE' ELSE 'not a table' END
    || CASE WHEN c.relreplident = 'n' THEN ' REPLICA IDENTITY NOTHING' ELSE '' END AS definition,
    '' AS fault
FROM ours o JOIN pg_catalog.pg_class c ON c.oid = o.id
UNION ALL
SELECT o.name, 'column', a.attname::TEXT,
    format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attcollation = t.typcollation THEN '' ELSE ' COLLATE ' || a.attcollation::regcollation::TEXT END
    || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
    || CASE WHEN a.attgenerated = '' THEN '' ELSE ' GENERATED' END
    || COALESCE(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
    || CASE WHEN a.attidentity = '' THEN '' ELSE ' IDENTITY' || COALESCE((
        SELECT ' (INCREMENT ' || s.seqincrement || ', MAXVALUE ' || s.seqmax || CASE WHEN s.seqcycle THEN ', CYCLE)' ELSE ')' END
        FROM pg_catalog.pg_depend p JOIN pg_catalog.pg_sequence s ON s.seqrelid = p.objid
        WHERE p.classid = 'pg_class'::regclass AND p.refclassid = 'pg_class'::regclass
            AND p.refobjid = o.id AND p.refobjsubid = a.attnum AND p.deptype = 'i'), '') END,
    ''
FROM ours o
JOIN pg_catalog.pg_attribute a ON a.attrelid = o.id AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = o.id AND d.adnum = a.attnum
UNION ALL
SELECT o.name, 'index', x.relname::TEXT,
    regexp_replace(regexp_replace(pg_get_indexdef(i.indexrelid), '^CREATE (UNIQUE )?INDEX .*? USING ', '\1'), ' WITH \([^)]*\)', ''),
    CASE WHEN NOT (i.indisvalid AND i.indisready AND i.indislive) THEN 'invalid' WHEN i.indimmediate THEN '' ELSE 'deferrable' END
FROM ours o
JOIN pg_catalog.pg_index i ON i.indrelid = o.id
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
UNION ALL
SELECT o.name, 'constraint', c.conname::TEXT, pg_get_constraintdef(c.oid, true),
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgconstraint = c.oid AND g.tgenabled NOT IN ('O', 'A'))
        THEN 'disabled' ELSE '' END
FROM ours o JOIN pg_catalog.pg_constraint c ON c.conrelid = o.id AND c.contype IN ('c', 'f', 'x')
UNION ALL
SELECT o.name, 'rule', r.rulename::TEXT, pg_get_ruledef(r.oid, true), ''
FROM ours o JOIN pg_catalog.pg_rewrite r ON r.ev_class = o.id AND r.rulename <> '_RETURN'
UNION ALL
SELECT o.name, 'trigger', g.tgname::TEXT,
    regexp_replace(pg_get_triggerdef(g.oid, true), '^CREATE (CONSTRAINT )?TRIGGER ', '\1'),
    CASE WHEN g.tgenabled = 'A' OR (g.tgenabled = 'O' AND current_setting('session_replication_role') <> 'replica')
        THEN '' ELSE 'disabled' END
FROM ours o JOIN pg_catalog.pg_trigger g ON g.tgrelid = o.id AND NOT g.tgisinternal
UNION ALL
SELECT f.of_table, 'function', p.proname::TEXT, l.lanname || ' ' || p.provolatile::TEXT || ' ' || p.prosrc
    || CASE WHEN p.prosecdef THEN ' SECURITY DEFINER' ELSE '' END || COALESCE(' SET ' || array_to_string(p.proconfig, ', '), ''), ''
FROM (VALUES ('clients', 'count_client_change()'), ('clients', 'new_change_id()'), ('key_version', 'name_key_change()'),
    ('denied_tokens', 'note_denied_token()'), ('sessions', 'note_ended_session()'), ('sessions', 'end_login_session()'),
    ('login_sessions', 'end_grants()'), ('users', 'forget_devices()'), ('tenants', 'note_disabled_tenant()'))
    AS f (of_table, name)
JOIN ours o ON o.name = f.of_table AND o.id IS NOT NULL
JOIN pg_catalog.pg_proc p ON p.oid = to_regprocedure(f.name)
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
ORDER BY 1, 2, 3
