-- What a stored password costs to check: all that stands before its salt. A server reads each cost once, by this index, instead of every
-- account. The expression is that of the query, letter for letter.
CREATE INDEX users_by_password_cost ON users (
    (CASE WHEN password_hash LIKE '%$2_$__$%' THEN rtrim(password_hash, 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/.-_=')
         ELSE rtrim(rtrim(rtrim(password_hash, 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/.-_='), '$'), 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/.-_=') END)
) WHERE password_hash IS NOT NULL;
