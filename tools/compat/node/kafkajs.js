// Judges a broker with kafkajs: node kafkajs.js HOST:PORT.
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')

const check = (ok, ...what) => { if (!ok) { console.error('FAIL', ...what); process.exit(1) } }

async function main () {
  const kafka = new Kafka({ clientId: 'compat', brokers: [process.argv[2]], logLevel: logLevel.ERROR })
  const admin = kafka.admin()
  await admin.connect()
  for (const [name, options] of [['default', {}], ['idempotent', { idempotent: true, maxInFlightRequests: 1 }]]) {
    const topic = `kafkajs-${name}-${Date.now()}`
    check(await admin.createTopics({ topics: [{ topic, numPartitions: 2, replicationFactor: 1 }] }), 'create')
    const producer = kafka.producer(options)
    await producer.connect()
    for (let i = 0; i < 50; i++) {
      const messages = Array.from({ length: 20 }, (_, j) => ({ key: `${j}`, value: `${i * 20 + j}`, headers: { h: 'x' } }))
      await producer.send({ topic, messages, compression: i % 2 ? CompressionTypes.GZIP : CompressionTypes.None })
    }
    await producer.disconnect()
    const groupId = `g-${topic}`
    const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 500, maxWaitTimeInMs: 500 })
    await consumer.connect()
    await consumer.subscribe({ topic, fromBeginning: true })
    const seen = new Set()
    await new Promise((resolve, reject) => {
      setTimeout(() => reject(new Error(`${name}: ${seen.size} of 1000 records`)), 40000).unref()
      consumer.run({ eachMessage: async ({ message }) => { if (seen.add(message.value.toString()).size === 1000) resolve() } }).catch(reject)
    })
    await consumer.disconnect()
    const offsets = await admin.fetchOffsets({ groupId, topics: [topic] })
    const sum = offsets[0].partitions.reduce((n, p) => n + Number(p.offset), 0)
    check(sum > 0 && sum <= 1000, 'committed', sum)
    const ends = await admin.fetchTopicOffsets(topic)
    check(ends.reduce((n, p) => n + Number(p.offset), 0) === 1000, 'ends', ends)
    await admin.deleteGroups([groupId])
    await admin.deleteTopics({ topics: [topic] })
    console.log('ok', name)
  }
  await admin.disconnect()
}

main().then(() => process.exit(0), e => { console.error(e); process.exit(1) })
