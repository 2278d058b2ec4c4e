// node-postgres at work through the gate, until SIGTERM: every way in which it talks to a server, each in sessions of its own. Prints
// what it was told as JSON: rows that were confirmed by worker, errors it did not ask for.
//   node node_postgres.js PORT COPIES
'use strict'
const { Client, Pool, Query } = require('pg')
const Cursor = require('pg-cursor')
const QueryStream = require('pg-query-stream')
const { from: copyFrom, to: copyTo } = require('pg-copy-streams')
const { pipeline } = require('stream/promises')
const { Readable } = require('stream')

const port = Number(process.argv[2])
const copies = Number(process.argv[3])
const config = { host: '127.0.0.1', port, user: 'client', database: 'shop', password: 'client-password' }
const kSpan = 1e9 // keys of one worker
const kPut = 'INSERT INTO public.orders (key, customer, body) VALUES ($1, 1, $2)'
let over = false
process.on('SIGTERM', () => { over = true })
const pause = (ms) => new Promise((done) => setTimeout(done, ms))

// What one worker was told.
class Worker {
  constructor(name, number) {
    Object.assign(this, { name, number, rows: 0, rounds: 0, expected: 0, unexpected: [] })
  }
  key(n = this.rows) { return this.number * kSpan + n }
  wrong(what) { this.unexpected.push(`${this.name} ${this.number}, round ${this.rounds}: ${what}`) }
  equal(found, wanted, what) { if (String(found) !== String(wanted)) this.wrong(`${what}: ${found} in the place of ${wanted}`) }
  async client(more = {}) {
    const client = new Client({ ...config, application_name: this.name, ...more })
    client.on('error', (error) => this.wrong(`the connection: ${error.message}`))
    await client.connect()
    return client
  }
  // What it wrote, it reads.
  async check(client) {
    const found = await client.query(`SELECT count(*) AS n FROM public.orders WHERE key >= ${this.key(0)} AND key < ${this.key(kSpan)}`)
    this.equal(found.rows[0].n, this.rows, 'rows of its own')
  }
  async refused(promise, code) {
    try {
      await promise
      this.wrong(`no error ${code}`)
    } catch (error) {
      if (error.code === code) this.expected++
      else this.wrong(`${error.code} ${error.message} in the place of ${code}`)
    }
  }
}

async function simple(me, client) {
  if (me.rounds % 2 === 0) await client.query(`INSERT INTO public.orders (key, customer, body) VALUES (${me.key()}, 1, 'simple')`)
  else {
    await client.query('BEGIN')
    await client.query(`INSERT INTO public.orders (key, customer, body) VALUES (${me.key()}, 1, 'open')`)
    await pause(3)
    await client.query('COMMIT')
  }
  me.rows++
}

async function prepared(me, client) {
  await client.query({ name: 'put', text: kPut, values: [me.key(), 'prepared'] })
  me.rows++
  const back = await client.query({ name: 'get', text: 'SELECT body FROM public.orders WHERE key = $1', values: [me.key(me.rows - 1)] })
  me.equal(back.rows[0].body, 'prepared', 'what was written')
}

async function unnamed(me, client) {
  await client.query(kPut, [me.key(), 'unnamed'])
  me.rows++
  await me.refused(client.query('SELECT 1 / $1::int', [0]), '22012')
}

// Twelve at once, of which one fails and takes none with it.
async function pipelined(me, client) {
  const asked = []
  for (let i = 0; i < 12; i++) asked.push(client.query(i % 2 ? { name: 'put', text: kPut, values: [me.key(me.rows + i), 'piped'] } : { text: kPut, values: [me.key(me.rows + i), 'piped'] }))
  asked.push(me.refused(client.query(kPut, [me.key(), 'twice']), '23505'))
  await Promise.all(asked)
  me.rows += 12
}

async function copy(me, client) {
  const lines = Array.from({ length: 200 }, (_, i) => `${me.key(me.rows + i)}\t1\tcopied ${i}\n`)
  await pipeline(Readable.from(lines), client.query(copyFrom('COPY public.orders (key, customer, body) FROM STDIN')))
  me.rows += lines.length
  let bytes = 0
  const out = client.query(copyTo(`COPY (SELECT key, customer, body FROM public.orders WHERE key >= ${me.key(me.rows - 200)} AND key < ${me.key(me.rows)} ORDER BY key) TO STDOUT`))
  for await (const chunk of out) bytes += chunk.length
  me.equal(bytes, lines.reduce((sum, line) => sum + line.length, 0), 'bytes copied out')
}

async function cursor(me, client) {
  const one = client.query(new Cursor('SELECT g FROM generate_series(1, $1::int) g', [700]))
  let sum = 0
  for (let rows = await one.read(100); rows.length; rows = await one.read(100)) sum += rows.reduce((all, row) => all + row.g, 0)
  await one.close()
  me.equal(sum, 700 * 701 / 2, 'read by a cursor')
  let streamed = 0
  for await (const row of client.query(new QueryStream('SELECT g FROM generate_series(1, 500) g', [], { batchSize: 50 }))) streamed += row.g
  me.equal(streamed, 500 * 501 / 2, 'read as a stream')
}

// Told by one session, heard by another: each once, in order.
async function notify(me, client) {
  if (!me.listener) {
    me.heard = []
    me.listener = await me.client()
    me.listener.on('notification', (one) => me.heard.push(one.payload))
    await me.listener.query(`LISTEN "Channel ${me.number}"`)
    me.told = 0
  }
  await client.query('SELECT pg_notify($1, $2)', [`Channel ${me.number}`, String(me.told++)])
}
notify.end = async (me) => {
  for (let i = 0; i < 200 && me.heard.length < me.told; i++) await pause(25)
  me.equal(me.heard.join(), Array.from({ length: me.told }, (_, i) => i).join(), 'notifications')
  await me.listener.end()
}

async function cancel(me, client) {
  let done = false
  const sleep = new Promise((resolve, reject) => {
    me.query = new Query('SELECT pg_sleep(60)', (error) => { done = true; error ? reject(error) : resolve() })
  })
  client.query(me.query)
  const refused = me.refused(sleep, '57014')
  for (await pause(50); !done; await pause(150)) {
    const other = new Client(config)
    other.connection.on('error', () => {})
    other.cancel(client, me.query)
  }
  await refused
}

// Sessions that come and go.
async function pool(me) {
  const all = new Pool({ ...config, max: 4, idleTimeoutMillis: 100, maxUses: 10 })
  all.on('error', (error) => me.wrong(`the pool: ${error.message}`))
  const first = me.rows
  const put = Array.from({ length: 30 }, (_, i) => all.query(kPut, [me.key(first + i), 'pooled']))
  await Promise.all(put)
  me.rows += put.length
  await all.end()
}

async function settings(me, client) {
  if (me.rounds === 0) {
    await client.query(`SET app.tenant = 'tenant ${me.number}'`)
    await client.query("SET TimeZone = 'Asia/Tokyo'")
    await client.query('SET ROLE shop_owner')
    await client.query('SELECT pg_advisory_lock($1)', [me.number])
  }
  const found = (await client.query("SELECT current_setting('app.tenant') AS tenant, current_setting('timezone') AS zone, current_user AS role, " +
    "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks")).rows[0]
  me.equal(Object.values(found).join(), `tenant ${me.number},Asia/Tokyo,shop_owner,1`, 'of the session')
}

async function work(me, kind) {
  const client = await me.client(kind === pipelined ? { pipeline: true } : {})
  for (; !over; me.rounds++) {
    await kind(me, client)
    if (me.rounds % 10 === 9) await me.check(client)
    await pause(10)
  }
  await me.check(client)
  if (kind.end) await kind.end(me)
  await client.end()
}

async function main() {
  const kinds = [simple, prepared, unnamed, pipelined, copy, cursor, notify, cancel, pool, settings]
  const workers = []
  for (let i = 0; i < copies; i++) for (const kind of kinds) workers.push([new Worker(kind.name, workers.length + 1), kind])
  await Promise.all(workers.map(([me, kind]) => work(me, kind).catch((error) => me.wrong(error.stack))))
  const sum = (of) => workers.reduce((all, [me]) => all + of(me), 0)
  const report = { rows: {}, rounds: {}, expected: sum((me) => me.expected), unexpected: workers.flatMap(([me]) => me.unexpected) }
  for (const [me] of workers) {
    if (me.rows) report.rows[me.number] = me.rows
    report.rounds[me.name] = (report.rounds[me.name] || 0) + me.rounds
  }
  console.log(JSON.stringify(report))
}
main()
