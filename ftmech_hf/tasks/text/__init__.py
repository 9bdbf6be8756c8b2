"""Any data set of prompts and answers, chats or plain text as a task, in the tokens of whatever model learns it."""
