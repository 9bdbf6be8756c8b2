"""The second sequence: features of stories are deleted one after another; which methods keep the others?"""
