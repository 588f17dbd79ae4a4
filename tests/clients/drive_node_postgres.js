// node-postgres: the extended protocol in text, and its binary mode.
'use strict';

const path = require('path');
const modules = path.join(process.env.TIDEMILL_TEST_CLIENTS, 'node_modules');
const { Client, Pool, types } = require(path.join(modules, 'pg'));
const Cursor = require(path.join(modules, 'pg-cursor'));
const QueryStream = require(path.join(modules, 'pg-query-stream'));
const copy = require(path.join(modules, 'pg-copy-streams'));
const { version } = require(path.join(modules, 'pg/package.json'));

const SECONDS_PER_CHECK = 60;
const checks = [];
const check = (name, body) => checks.push([name, body]);

async function connected(body, options = {}) {
  const client = new Client(options);
  await client.connect();
  try {
    return await body(client);
  } finally {
    await client.end();
  }
}

// A client that was given up as broken must not end the script.
process.on('unhandledRejection', () => {});
process.on('uncaughtException', () => {});

const shown = (result) => [
  result.fields.map((field) => [field.name, field.dataTypeID, field.dataTypeModifier, field.format]),
  result.rows,
  result.command,
  result.rowCount,
];
const rows = (sql, values, options) =>
  connected(async (client) => shown(await client.query({ text: sql, values, rowMode: 'array', ...options })));

const VALUES = {
  numbers: "1::int2, -2::int4, 9007199254740993::int8, 1.5::float4, -0.1::float8, 12.34::numeric(10, 2), true, false",
  text: "'x'::text, 'yy'::varchar(5), 'z'::char(3), '\\x00ff'::bytea, ''::text, 'n'::name",
  times: "date '2024-02-29', time '12:34:56.789', timestamp '2024-02-29 12:34:56.789', timestamptz '2024-02-29 12:34:56+02', interval '1 day 2 hours'",
  'uuid, json': `'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '{"a": [1, null]}'::json, '{"b": 1.5}'::jsonb`,
  nulls: 'NULL::int4, NULL::text, NULL::timestamptz, NULL',
  arrays: `ARRAY[1, 2, NULL]::int4[], ARRAY['a', 'b"c', NULL]::text[], ARRAY[1.5, 2.25]::numeric[], '{}'::int8[], ARRAY[true, false]`,
};
for (const [subject, values] of Object.entries(VALUES)) check(`types: ${subject}`, () => rows(`SELECT ${values}`));

check('types in binary: numbers', () => connected(async (client) =>
  shown(await client.query({ text: 'SELECT 1::int2, 2::int4, 3::int8, 1.5::float8, true', rowMode: 'array' })), { binary: true }));
check('select', () => rows('SELECT * FROM orders ORDER BY id'));
check('parameters', () =>
  rows('SELECT id FROM orders WHERE id = ANY($1) AND customer = $2 AND amount > $3 AND ts > $4 LIMIT $5',
    [[1, 2, 3], 'ann', '51.5', new Date(Date.UTC(2025, 0, 1)), 5]));
check('parameters without a type', () => rows('SELECT $1::int + 1, coalesce($2, $3), $4::jsonb, $5::text[]', [1, null, 'x', { a: 1 }, ['a', 'b']]));
check('limit and offset as parameters', () => rows('SELECT id FROM orders ORDER BY id LIMIT $1 OFFSET $2', [1, 1]));
check('prepared', () => connected(async (client) => {
  const seen = [];
  for (const id of [1, 2, 3]) {
    seen.push((await client.query({ name: 'by-id', text: 'SELECT customer FROM orders WHERE id = $1', values: [id] })).rows);
  }
  return seen;
}));
check('several statements at once', () => connected(async (client) =>
  (await client.query('SELECT 1 AS a; SELECT 2 AS b, 3 AS c')).map((result) => result.rows)));
check('changes and their counts', () => connected(async (client) => {
  const seen = [];
  for (const sql of ['CREATE TABLE changed (a INT PRIMARY KEY, b TEXT)', "INSERT INTO changed VALUES (1, 'x'), (2, 'y')",
    "UPDATE changed SET b = 'z'", "INSERT INTO changed VALUES (3, 'w') RETURNING *", 'DELETE FROM changed WHERE a = 1', 'DROP TABLE changed']) {
    const result = await client.query(sql);
    seen.push([result.command, result.rowCount, result.rows]);
  }
  return seen;
}));
check('transaction', () => connected(async (client) => {
  await client.query('BEGIN');
  await client.query("INSERT INTO lines VALUES (4, 1, 'x', 1)");
  const seen = [(await client.query('SELECT count(*) FROM lines WHERE order_id = 4')).rows];
  await client.query('ROLLBACK');
  seen.push((await client.query('SELECT count(*) FROM lines WHERE order_id = 4')).rows);
  return seen;
}));
check('errors', () => connected(async (client) => {
  const seen = [];
  for (const sql of ['SELECT * FROM nothing', 'SELECT nothing FROM orders', 'SELECT 1/0', "SELECT 'x'::int",
    "INSERT INTO orders VALUES (1, 'twice')", 'SELEC 1']) {
    try {
      await client.query(sql);
      seen.push('no error');
    } catch (error) {
      seen.push([error.code, error.severity, error.position]);
    }
  }
  return seen;
}));
check('cursor', () => connected(async (client) => {
  const cursor = client.query(new Cursor('SELECT g FROM generate_series(1, $1::int) AS g', [20]));
  const seen = [await cursor.read(3), await cursor.read(5)];
  await cursor.close();
  seen.push((await client.query('SELECT 1 AS one')).rows);
  return seen;
}));
check('stream', () => connected(async (client) => {
  let sum = 0;
  for await (const row of client.query(new QueryStream('SELECT g FROM generate_series(1, 1000) AS g', [], { batchSize: 70 }))) sum += row.g;
  return sum;
}));
check('COPY', () => connected(async (client) => {
  await client.query('CREATE TABLE copied (a INT PRIMARY KEY, b TEXT)');
  try {
    const into = client.query(copy.from('COPY copied FROM STDIN'));
    await new Promise((resolve, reject) => {
      into.on('finish', resolve);
      into.on('error', reject);
      into.end('1\tx\n2\t\\N\n');
    });
    let text = '';
    for await (const chunk of client.query(copy.to('COPY (SELECT * FROM copied ORDER BY a) TO STDOUT CSV'))) text += chunk;
    return [into.rowCount, text];
  } finally {
    await client.query('DROP TABLE copied');
  }
}));
check('notifications', () => connected(async (client) => {
  const arrived = new Promise((resolve) => client.on('notification', (message) => resolve([message.channel, message.payload])));
  await client.query('LISTEN news');
  await client.query("NOTIFY news, 'x'");
  return Promise.race([arrived, new Promise((_, reject) => setTimeout(() => reject(new Error('none arrives')), 5000))]);
}));
check('pool', async () => {
  const pool = new Pool({ max: 3 });
  const results = await Promise.all([1, 2, 3, 4, 5, 6].map((number) => pool.query('SELECT $1::int AS n', [number])));
  await pool.end();
  return results.map((result) => result.rows[0].n);
});
check('startup options', () => connected(async (client) =>
  (await client.query("SELECT current_setting('application_name') AS name, current_setting('statement_timeout') AS timeout, current_setting('TimeZone') AS zone")).rows,
{ application_name: 'checks', statement_timeout: 5000, options: '-c TimeZone=Europe/Berlin' }));
check('statement_timeout', () => connected(async (client) => {
  try {
    await client.query('SELECT pg_sleep(20)');
    return 'ran to its end';
  } catch (error) {
    return error.code;
  }
}, { statement_timeout: 200 }));
check('types of arrays', () => connected(async (client) =>
  (await client.query("SELECT typname, typarray FROM pg_type WHERE typname IN ('int4', 'text', 'numeric', 'uuid') ORDER BY typname")).rows));

function limited(promise) {
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${SECONDS_PER_CHECK} s`)), SECONDS_PER_CHECK * 1000);
  });
  return Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}

(async () => {
  console.log(JSON.stringify({ client: `node-postgres ${version}` }));
  for (const [name, body] of checks) {
    const line = { check: name };
    try {
      line.saw = await limited(body());
    } catch (error) {
      line.failed = `${error.code ?? error.name}: ${error.message}`.replace(/\s+/g, ' ').slice(0, 400);
    }
    console.log(JSON.stringify(line));
  }
  process.exit(0);
})();
