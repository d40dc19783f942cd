-- PostgreSQL alone names rows for its replicas.
SELECT 1;
