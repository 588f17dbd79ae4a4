SELECT bidder, price, channel, url, b.extra AS bid_extra,
    p.id AS person_id, name, email_address, credit_card, city, state, p.extra AS person_extra,
    item_name, description, initial_bid, reserve, a.date_time AS auction_date_time, expires, seller, category,
    a.extra AS auction_extra
FROM bid AS b
JOIN person AS p ON p.id = b.bidder
JOIN auction AS a ON a.seller = b.bidder
