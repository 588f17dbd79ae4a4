-- What every client looks at, on Tidemill and on PostgreSQL.
CREATE TABLE orders (
    id INT PRIMARY KEY,
    customer TEXT NOT NULL,
    amount NUMERIC(10, 2),
    ts TIMESTAMP,
    tz TIMESTAMPTZ,
    d DATE,
    tags TEXT[]
);
COMMENT ON TABLE orders IS 'what was ordered';
COMMENT ON COLUMN orders.amount IS 'in euro';
CREATE TABLE lines (order_id INT, line INT, item VARCHAR(40), price DOUBLE PRECISION, PRIMARY KEY (order_id, line));
INSERT INTO orders VALUES
    (1, 'ann', 60, '2026-01-01 10:00:00', '2026-01-01 10:00:00+00', '2026-01-01', '{a,b}'),
    (2, 'ann', 50.5, '2026-01-02 10:00:00.25', NULL, '2026-01-02', '{}'),
    (3, 'bob', 7, NULL, '2026-01-03 10:00:00+02', NULL, NULL);
INSERT INTO lines VALUES (1, 1, 'pen', 1.5), (1, 2, 'ink', 8), (2, 1, 'pad', 4.25);
CREATE VIEW big_orders AS SELECT id, customer, amount FROM orders WHERE amount > 50;
CREATE MATERIALIZED VIEW totals AS SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer;
