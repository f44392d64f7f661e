// The official TypeScript client at work: `client.ts <old|new> <url> | <old|new> <program> <argument>…`.
// Registers itself, lists tools and agents, reads its own status, and prints what it found as one line of JSON.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

const [era, target, ...rest] = process.argv.slice(2);
const transport = target.startsWith("http")
  ? new StreamableHTTPClientTransport(new URL(target))
  : new StdioClientTransport({ command: target, args: rest, env: process.env as Record<string, string> });
const mode = era === "old" ? ("legacy" as const) : { pin: "2026-07-28" };
const client = new Client({ name: "official-typescript", version: "1" }, { versionNegotiation: { mode } });

await client.connect(transport);
const { tools } = await client.listTools();
const registered: any = await client.callTool({ name: "register_agent", arguments: { name: "The TypeScript one" } });
if (registered.isError) throw new Error(JSON.stringify(registered));
const agent: string = registered.structuredContent.agent_id;
const listed: any = await client.callTool({ name: "list_agents", arguments: {} });
if (listed.isError) throw new Error(JSON.stringify(listed));
const status: any = await client.readResource({ uri: `agents://${agent}/status` });
console.log(
  JSON.stringify({
    protocol: client.getNegotiatedProtocolVersion(),
    tools: tools.map((tool) => tool.name),
    agents: listed.structuredContent.agents.map((each: any) => each.id),
    status: JSON.parse(status.contents[0].text),
  }),
);
await client.close();
