-- Bounded side input: each bid with what a table says of its auction. In Flink the table is looked up
-- once, when the bid comes; here the answer follows the table.
SELECT b.auction, b.bidder, b.price, b.date_time, s.value
FROM bid AS b JOIN side_input AS s ON mod(b.auction, 10000) = s.key
