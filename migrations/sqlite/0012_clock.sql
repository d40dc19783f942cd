-- How far time has come by the nodes that serve, so that a start on a wrong clock is noticed. Times are Unix seconds; 0 is never.
CREATE TABLE clock (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    -- The newest time that a node has lived through. Only a confirmed step of the clock sets it back.
    reached BIGINT NOT NULL,
    -- The newest time that a node was sure of. A node in doubt does not write it.
    confirmed BIGINT NOT NULL
);
INSERT INTO clock (id, reached, confirmed) VALUES (1, 0, 0);
