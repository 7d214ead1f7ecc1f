// Clients of databases on Node: pg, mysql2, ioredis, node-redis. PROGRAM PORT CONNECTIONS: each connection does the same, and prints
// the codes of the errors that it got.

async function pg(port) {
  const { Client } = require("pg");
  const client = new Client({ host: "127.0.0.1", port, user: "root", database: "test", ssl: false });
  await client.connect();
  const fails = (...query) => client.query(...query).then(() => console.log("none"), (error) => console.log(error.code));
  await client.query("BEGIN");
  for (let index = 0; index < 10; index++) {
    await client.query("SELECT name FROM items WHERE name = 'secret'");
    await client.query("SELECT name FROM items WHERE id = $1", [index]);
    await client.query({ name: "put", text: "INSERT INTO log (name) VALUES ($1)", values: ["secret"] });
  }
  await client.query("COMMIT");
  // Nobody waits for one before the next is asked.
  await Promise.all(Array.from({ length: 10 }, (_, index) => client.query("UPDATE items SET name = $1 WHERE id = 5", [`secret${index}`])));
  await fails("INSERT INTO items VALUES ($1, 'secret')", [1]);
  await fails("SELECT nothing FROM items");
  await fails("SELEC 'secret'");
  await client.query("DELETE FROM items WHERE id = 7");
  await client.end();
}

async function mysql2(port) {
  const mysql = require("mysql2/promise");
  const client = await mysql.createConnection({ host: "127.0.0.1", port, user: "app", password: "test", database: "test" });
  const fails = (query) => query.then(() => console.log("none"), (error) => console.log(error.errno, error.sqlState));
  for (let index = 0; index < 10; index++) {
    await client.query("SELECT name FROM items WHERE name = ?", ["secret"]);
    await client.execute("SELECT name FROM items WHERE id = ?", [index]);
    await client.execute("INSERT INTO log (name) VALUES (?)", ["secret"]);
  }
  await Promise.all(Array.from({ length: 10 }, (_, index) => client.query("UPDATE items SET name = ? WHERE id = 5", [`secret${index}`])));
  await fails(client.execute("INSERT INTO items VALUES (?, 'secret')", [1]));
  await fails(client.query("SELECT name FROM absent"));
  await client.query("DELETE FROM items WHERE id = 7");
  await client.end();
}

const redisCode = (error) => console.log(error.message.split(" ")[0]);

async function ioredis(port) {
  const Redis = require("ioredis");
  const client = new Redis({ host: "127.0.0.1", port });
  for (let round = 0; round < 10; round++) {
    const pipeline = client.pipeline();
    for (let index = 0; index < 10; index++) pipeline.set(`key${index}`, "secret").get(`key${index}`);
    const results = await pipeline.incr("key0").exec();
    results.forEach(([error]) => error && redisCode(error));
    await client.multi().hset("hash", "field", "secret").hgetall("hash").exec();
  }
  await client.lpush("list", "secret");
  await client.incr("list").catch(redisCode);
  await client.mset("a", "secret", "b", "x".repeat(20000));
  await client.mget("a", "b");
  await client.quit();
}

async function redis(port) {
  const { createClient } = require("redis");
  const client = createClient({ RESP: 3, socket: { host: "127.0.0.1", port } });
  await client.connect();
  const ten = (command) => Promise.all(Array.from({ length: 10 }, (_, index) => command(`key${index}`)));
  for (let round = 0; round < 10; round++) {
    await ten((key) => client.set(key, "secret"));
    await ten((key) => client.get(key));
    await client.multi().hSet("hash", { field: "secret" }).hGetAll("hash").exec();
  }
  await client.lPush("list", "secret");
  await client.incr("list").catch(redisCode);
  await client.close();
}

const [program, port, connections] = process.argv.slice(1);
const work = { pg, mysql2, ioredis, redis }[program];
Promise.all(Array.from({ length: Number(connections) }, () => work(Number(port)))).catch((error) => {
  console.error(error);
  process.exit(1);
});
