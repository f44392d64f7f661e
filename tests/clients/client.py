"""The official Python client at work: `client.py <old|new> <url> | <old|new> <program> <argument>…`.

Registers itself, lists tools and agents, reads its own status, and prints what it found as one line of JSON.
"""

import asyncio
import json
import os
import sys

from mcp import Client
from mcp.client.stdio import StdioServerParameters


async def main(era: str, target: list[str]) -> None:
    if target[0].startswith("http"):
        server = target[0]
    else:
        server = StdioServerParameters(command=target[0], args=target[1:], env=dict(os.environ))
    mode = {"old": "legacy", "new": "2026-07-28"}[era]
    async with Client(server, mode=mode) as client:
        tools = await client.list_tools()
        registered = await client.call_tool("register_agent", {"name": "The Python one"})
        assert not registered.is_error, registered
        agent = registered.structured_content["agent_id"]
        listed = await client.call_tool("list_agents", {})
        assert not listed.is_error, listed
        status = await client.read_resource(f"agents://{agent}/status")
        found = {
            "protocol": client.protocol_version,
            "tools": [tool.name for tool in tools.tools],
            "agents": [each["id"] for each in listed.structured_content["agents"]],
            "status": json.loads(status.contents[0].text),
        }
        print(json.dumps(found))


asyncio.run(main(sys.argv[1], sys.argv[2:]))
