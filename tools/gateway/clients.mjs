// Asks gateways through the clients of Node that applications already use.
//
//     clients.mjs READY_URL ABSENT_URL TOKEN        (NODE_MODULES: where ai, @ai-sdk/cohere and cohere-ai are)

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.NODE_MODULES}/x.js`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { rerank } = await load("ai");
const { createCohere } = await load("@ai-sdk/cohere");
const { CohereClientV2 } = await load("cohere-ai");

globalThis.AI_SDK_LOG_WARNINGS = false;
const [ready, absent, token] = process.argv.slice(2);
const query = "how do cats purr";
const documents = [
  "The price of cat food rose last year.",
  "Dogs bark when somebody comes to the door.",
  "Cats purr by moving the muscles of the larynx while they breathe in and out.",
];

const aiSdk = async (url, documents) => {
  const model = createCohere({ baseURL: `${url}/v2`, apiKey: token }).reranking("any");
  const answer = await rerank({ model, query, documents });
  return answer.ranking.map((row) => row.originalIndex);
};
const cohere = async (url, documents) => {
  const answer = await new CohereClientV2({ environment: url, token }).rerank({ model: "any", query, documents });
  return answer.results.map((row) => row.index);
};

const order = await cohere(ready, documents);
assert.equal(order[0], 2);
for (const [name, ask] of [["cohere-ai", cohere], ["AI SDK", aiSdk]]) {
  assert.deepEqual(await ask(ready, documents), order, name);
  assert.deepEqual(await ask(absent, documents), [0, 1, 2], name);
  console.log(`  ok  ${name}: ${order}, and 0,1,2 without a worker`);
}
const objects = documents.map((body) => ({ title: "x", body }));
assert.equal((await aiSdk(ready, objects))[0], 2);
