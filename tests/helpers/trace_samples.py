"""Three requests, 0, 1.5 and 4 seconds after the first, in every format of a row a request."""

AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST_HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"

SAMPLES = {
    "azure2023": AZURE_HEADER
    + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:48.1805900,396,109\n2023-11-16 18:15:50.6805900,879,55\n",
    "azure2024": AZURE_HEADER
    + "2024-05-10 23:59:59.500000+00:00,374,44\n2024-05-11 00:00:01.000000+00:00,396,109\n"
    + "2024-05-11 00:00:03.500000+00:00,879,55\n",
    "burstgpt": BURST_HEADER
    + "5,ChatGPT,374,44,418,Conversation log\n6.5,GPT-4,396,109,505,API log\n9,ChatGPT,879,55,934,API log\n",
    "mooncake": '{"timestamp": 0, "input_length": 374, "output_length": 44, "hash_ids": [0, 1]}\n'
    '{"timestamp": 1500, "input_length": 396, "output_length": 109, "hash_ids": []}\n'
    '{"timestamp": 4000, "input_length": 879, "output_length": 55, "hash_ids": [2]}\n',
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n1.5,396,109\n4.0,879,55\n",
    "csv": "arrival_ms,prompt_tokens,output_tokens\n100,374,44\n1600,396,109\n4100,879,55\n",
}
