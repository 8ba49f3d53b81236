// Collects candles with the official Lightstreamer client for Node and compares them with REST.
// Environment: IG_API_URL, START and END (epoch seconds of the streamed span), CLIENT (name to print).
'use strict';

const { LightstreamerClient, Subscription } = require('lightstreamer-client-node');

const api = process.env.IG_API_URL;
const [START, END] = [Number(process.env.START), Number(process.env.END)];
const BUCKET_S = 300;
const PATIENCE_MS = 120000;
const PAIRS = (
  'EURUSD GBPUSD AUDUSD NZDUSD USDCAD USDCHF USDJPY EURGBP EURAUD EURNZD EURCAD EURCHF EURJPY GBPAUD ' +
  'GBPNZD GBPCAD GBPCHF GBPJPY AUDNZD AUDCAD AUDCHF AUDJPY NZDCAD NZDCHF NZDJPY CADCHF CADJPY CHFJPY'
).split(' ');
const PRICES = ['BID', 'OFR'].flatMap((side) => ['OPEN', 'HIGH', 'LOW', 'CLOSE'].map((field) => `${side}_${field}`));
const FIELDS = ['UTM', 'LTV', 'CONS_TICK_COUNT', 'CONS_END', ...PRICES, 'LTP_CLOSE'];

const epic = (pair) => `CS.D.${pair}.CFD.IP`;
const headers = { 'X-IG-API-KEY': 'demo-key', 'Content-Type': 'application/json; charset=UTF-8' };

async function call(method, path, version, body) {
  const response = await fetch(api + path, { method, headers: { ...headers, VERSION: version }, body: body && JSON.stringify(body) });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  return response;
}

function streamed(values) {
  return [...PRICES.map((field) => Number(values[field])), Number(values.CONS_TICK_COUNT), Number(values.LTV)];
}

function fetched(bar) {
  const legs = [bar.openPrice, bar.highPrice, bar.lowPrice, bar.closePrice];
  return [...legs.map((leg) => leg.bid), ...legs.map((leg) => leg.ask), bar.lastTradedVolume, bar.lastTradedVolume];
}

async function main() {
  const login = await call('POST', '/session', '3', { identifier: 'demo-user', password: 'demo-password' });
  const session = await login.json();
  headers.Authorization = `Bearer ${session.oauthToken.access_token}`;
  headers['IG-ACCOUNT-ID'] = session.accountId;
  const tokens = await call('GET', '/session?fetchSessionTokens=true', '1');
  headers.CST = tokens.headers.get('CST');
  headers['X-SECURITY-TOKEN'] = tokens.headers.get('X-SECURITY-TOKEN');
  delete headers.Authorization;
  const latest = await (await call('GET', `/prices/${epic('EURUSD')}?resolution=MINUTE_5&max=12&pageSize=0`, '3')).json();
  if (latest.prices.length !== 12) throw new Error('12 bars were asked for');

  const candles = new Map(PAIRS.map((pair) => [epic(pair), new Map()]));
  const differences = [];
  let updates = 0;
  let lastUpdate = Date.now();
  const client = new LightstreamerClient(session.lightstreamerEndpoint, 'DEFAULT');
  client.connectionDetails.setUser(session.accountId);
  client.connectionDetails.setPassword(`CST-${headers.CST}|XST-${headers['X-SECURITY-TOKEN']}`);
  client.addListener({ onServerError: (code, message) => differences.push(`server error ${code} ${message}`) });
  const subscription = new Subscription('MERGE', PAIRS.map((pair) => `CHART:${epic(pair)}:5MINUTE`), FIELDS);
  subscription.setRequestedSnapshot('yes');
  subscription.addListener({
    onItemUpdate(update) {
      updates += 1;
      lastUpdate = Date.now();
      if (update.getValue('CONS_END') !== '1') return;
      const values = Object.fromEntries(FIELDS.map((field) => [field, update.getValue(field)]));
      const ofEpic = candles.get(update.getItemName().split(':')[1]);
      const start = Number(values.UTM) / 1000;
      if (ofEpic.has(start)) differences.push(`${update.getItemName()} closed twice at ${start}`);
      if (values.LTP_CLOSE !== null) differences.push('a traded price where there is none');
      ofEpic.set(start, values);
    },
    onSubscriptionError: (code, message) => differences.push(`subscription refused: ${code} ${message}`),
    onItemLostUpdates: (name, position, lost) => differences.push(`${name} lost ${lost} updates`),
  });
  const begun = Date.now();
  client.connect();
  client.subscribe(subscription);

  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    const silentMs = Date.now() - lastUpdate;
    const done = [...candles.values()].filter((ofEpic) => ofEpic.has(END - BUCKET_S)).length;
    // Thin pairs may be silent in the last bucket.
    if (done === PAIRS.length || (done > 0 && silentMs > 5000)) break;
    if (silentMs > PATIENCE_MS || differences.length > 0) {
      throw new Error(`the stream is silent or failed: ${differences.slice(0, 5)} ${updates} updates`);
    }
  }
  const streamedS = ((Date.now() - begun) / 1000).toFixed(1);
  client.disconnect();

  let compared = 0;
  const local = (at) => new Date((at + session.timezoneOffset * 3600) * 1000).toISOString().slice(0, 19);
  for (const pair of PAIRS) {
    const range = `from=${local(START)}&to=${local(END - BUCKET_S)}&pageSize=0`;
    const answer = await (await call('GET', `/prices/${epic(pair)}?resolution=MINUTE_5&${range}`, '3')).json();
    const rest = new Map(answer.prices.map((bar) => [Date.parse(`${bar.snapshotTimeUTC}Z`) / 1000, fetched(bar)]));
    const stream = candles.get(epic(pair));
    for (const start of new Set([...rest.keys(), ...stream.keys()])) {
      compared += 1;
      const left = stream.has(start) ? JSON.stringify(streamed(stream.get(start))) : 'nothing';
      const right = rest.has(start) ? JSON.stringify(rest.get(start)) : 'nothing';
      if (left !== right) differences.push(`${pair} ${start}: stream ${left}, REST ${right}`);
    }
  }
  await call('DELETE', '/session', '1');
  console.log(`${process.env.CLIENT}: ${updates} updates in ${streamedS} s, ${compared} candles compared, ${differences.length} differences`);
  for (const difference of differences.slice(0, 10)) console.log(`  ${difference}`);
  process.exit(differences.length > 0 || compared === 0 ? 1 : 0);
}

main().catch((error) => {
  console.error(`${process.env.CLIENT}: ${error.message}`);
  process.exit(1);
});
