-- The official query looks the table up once, when the bid comes. Flink's file tables cannot be looked up, so
-- it is the join that all systems can do, which follows the table.
SELECT b.auction, b.bidder, b.price, b.date_time, s.`value`
FROM bid AS b JOIN side_input AS s ON MOD(b.auction, 10000) = s.`key`
