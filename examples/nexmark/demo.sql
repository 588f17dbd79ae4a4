-- What `tidemill demo` runs: an auction site (the Nexmark benchmark's), and questions about it whose
-- answers are kept current while people register, open auctions and bid.
--
-- Of 50 events 1 is a person, 3 are auctions and 46 are bids. The three sources read one stream: it has
-- one seed. `rate` is in events per second of all three; event time runs by `event_rate`.

CREATE SOURCE IF NOT EXISTS person (
    id BIGINT, name TEXT, state TEXT, date_time TIMESTAMP NOT NULL,
    WATERMARK FOR date_time AS date_time - INTERVAL '1 second'
) WITH (connector = 'generator', table = 'person', rate = '50000');

CREATE SOURCE IF NOT EXISTS auction (
    id BIGINT, seller BIGINT, category BIGINT, date_time TIMESTAMP NOT NULL,
    WATERMARK FOR date_time AS date_time - INTERVAL '1 second'
) WITH (connector = 'generator', table = 'auction', rate = '50000');

CREATE SOURCE IF NOT EXISTS bid (
    auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP NOT NULL,
    WATERMARK FOR date_time AS date_time - INTERVAL '1 second'
) WITH (connector = 'generator', table = 'bid', rate = '50000');

-- How busy is it? Bids in windows of ten seconds of event time.
CREATE PIPELINE IF NOT EXISTS bids_per_window AS
SELECT window_start, count(*) AS bids, max(price) AS highest
FROM TUMBLE(bid, date_time, INTERVAL '10 seconds')
GROUP BY window_start;

-- What is hot? The three auctions of each window that had the most bids.
CREATE PIPELINE IF NOT EXISTS hot_auctions AS
SELECT window_start, rank, auction, bids
FROM (
    SELECT window_start, auction, bids,
           row_number() OVER (PARTITION BY window_start ORDER BY bids DESC, auction) AS rank
    FROM (
        SELECT window_start, auction, count(*) AS bids
        FROM TUMBLE(bid, date_time, INTERVAL '10 seconds')
        GROUP BY window_start, auction
    ) AS counted
) AS ranked
WHERE rank <= 3;

-- What does the leading bid of an auction come to, by category? A pipeline on a pipeline.
CREATE PIPELINE IF NOT EXISTS leading_bids AS
SELECT auction, max(price) AS price, count(*) AS bids FROM bid GROUP BY auction;

CREATE PIPELINE IF NOT EXISTS price_by_category AS
SELECT a.category, count(*) AS auctions, sum(l.bids) AS bids, avg(l.price) AS average_price
FROM auction AS a JOIN leading_bids AS l ON l.auction = a.id
GROUP BY a.category;

-- Where do the sellers live?
CREATE PIPELINE IF NOT EXISTS sellers_by_state AS
SELECT p.state, count(*) AS auctions
FROM auction AS a JOIN person AS p ON a.seller = p.id
GROUP BY p.state;

-- Out again. A blackhole takes everything; put file or kafka here.
CREATE SINK IF NOT EXISTS windows_out FROM bids_per_window WITH (connector = 'blackhole');
